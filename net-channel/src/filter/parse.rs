//! From tokens to a tree, checked on the way: whatever this gives can be evaluated within bounds.

use std::ops::Range;

use crate::filter::error::{FilterError, FilterErrorKind as Kind};
use crate::filter::expr::{Binary, Comprehension, Expr, Fold, Function, Literal, Name};
use crate::filter::lex::{Lexer, Token};
use crate::filter::pattern::Pattern;
use crate::filter::{NESTING_MAX, NODES_MAX, Program};

type Parsed = Result<Expr, FilterError>;

struct Parser<'t> {
    text: &'t str,
    lexer: Lexer<'t>,
    token: Token,
    /// Where the token stands.
    at: Range<usize>,
    nodes: usize,
    depth: usize,
    /// The element's name, within a comprehension.
    element: Option<String>,
    fields: Vec<Box<str>>,
    whole_body: bool,
}

/// Words that are no names at all, and words that are no names of variables.
const KEYWORDS: [&str; 4] = ["true", "false", "null", "in"];
const RESERVED: [&str; 17] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "namespace",
    "package",
    "return",
    "var",
    "void",
    "while",
];

/// Binds tighter from group to group.
const OPERATORS: [&[(&str, Binary)]; 3] = [
    &[
        ("==", Binary::Equal),
        ("!=", Binary::NotEqual),
        ("<", Binary::Less),
        ("<=", Binary::LessEqual),
        (">", Binary::Greater),
        (">=", Binary::GreaterEqual),
        ("in", Binary::In),
    ],
    &[("+", Binary::Add), ("-", Binary::Subtract)],
    &[("*", Binary::Multiply), ("/", Binary::Divide), ("%", Binary::Remainder)],
];

/// Reads a text of bounded length.
pub(super) fn parse(text: &str) -> Result<Program, FilterError> {
    let mut parser = Parser {
        text,
        lexer: Lexer::new(text),
        token: Token::End,
        at: 0..0,
        nodes: 0,
        depth: 0,
        element: None,
        fields: Vec::new(),
        whole_body: false,
    };
    parser.advance()?;
    let root = parser.expr()?;
    if parser.token != Token::End {
        return Err(parser.expected("an operator or the end"));
    }
    if let Some(what) = root.not_bool() {
        return Err(FilterError::new(Kind::NotBool(what), text, 0..text.trim_end().len()));
    }
    let Parser { fields, whole_body, .. } = parser;
    Ok(Program { root, fields, whole_body })
}

impl Parser<'_> {
    fn advance(&mut self) -> Result<Token, FilterError> {
        let (token, at) = self.lexer.next()?;
        self.at = at;
        Ok(std::mem::replace(&mut self.token, token))
    }

    fn error(&self, kind: Kind, at: Range<usize>) -> FilterError {
        FilterError::new(kind, self.text, at)
    }

    fn expected(&self, expected: &'static str) -> FilterError {
        self.error(Kind::Expected { expected, found: self.token.name() }, self.at.clone())
    }

    fn is(&self, sign: &str) -> bool {
        matches!(&self.token, Token::Sign(s) if *s == sign)
    }

    fn take(&mut self, sign: &str) -> Result<bool, FilterError> {
        let is = self.is(sign);
        if is {
            self.advance()?;
        }
        Ok(is)
    }

    fn need(&mut self, sign: &str, expected: &'static str) -> Result<(), FilterError> {
        if self.take(sign)? { Ok(()) } else { Err(self.expected(expected)) }
    }

    /// Counts a node: of trees that grow, only their nodes are bounded, so every one passes here.
    fn node(&mut self, expr: Expr) -> Parsed {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(self.error(Kind::TooManyNodes, self.at.clone()));
        }
        Ok(expr)
    }

    /// `a ? b : c`, and everything that binds tighter. The one way down, so its depth is that of the recursion.
    fn expr(&mut self) -> Parsed {
        if self.depth == NESTING_MAX {
            return Err(self.error(Kind::TooDeep, self.at.clone()));
        }
        self.depth += 1;
        let condition = self.logic(true)?;
        let expr = if self.take("?")? {
            let then = self.logic(true)?;
            self.need(":", "`:`")?;
            let other = self.expr()?;
            self.node(Expr::If(Box::new([condition, then, other])))?
        } else {
            condition
        };
        self.depth -= 1;
        Ok(expr)
    }

    fn logic(&mut self, is_or: bool) -> Parsed {
        let side = |parser: &mut Self| if is_or { parser.logic(false) } else { parser.binary(0) };
        let mut left = side(self)?;
        while self.take(if is_or { "||" } else { "&&" })? {
            let right = side(self)?;
            left = self.node(Expr::Logic { is_or, sides: Box::new([left, right]) })?;
        }
        Ok(left)
    }

    fn binary(&mut self, group: usize) -> Parsed {
        let Some(operators) = OPERATORS.get(group) else { return self.unary() };
        let mut left = self.binary(group + 1)?;
        loop {
            let sign = match &self.token {
                Token::Sign(sign) => *sign,
                Token::Word(word) if word == "in" => "in",
                _ => return Ok(left),
            };
            let Some((_, binary)) = operators.iter().find(|(s, _)| *s == sign) else { return Ok(left) };
            self.advance()?;
            let right = self.binary(group + 1)?;
            left = self.node(Expr::Binary(*binary, Box::new([left, right])))?;
        }
    }

    fn unary(&mut self) -> Parsed {
        let mut signs = Vec::new();
        while let Token::Sign(sign @ ("!" | "-")) = self.token {
            // Only so many can become nodes.
            if signs.len() == NODES_MAX {
                return Err(self.error(Kind::TooManyNodes, self.at.clone()));
            }
            signs.push(sign);
            self.advance()?;
        }
        let mut expr = match self.token {
            // The smallest number has no positive counterpart, so the minus goes with the digits.
            Token::Int(n) if signs.last() == Some(&"-") => {
                signs.pop();
                let at = self.at.clone();
                self.advance()?;
                let n = 0_i64.checked_sub_unsigned(n).ok_or_else(|| self.error(Kind::Number, at))?;
                let literal = self.node(Expr::Literal(Literal::Int(n)))?;
                self.members(literal)?
            }
            _ => {
                let primary = self.primary()?;
                self.members(primary)?
            }
        };
        for sign in signs.into_iter().rev() {
            let inner = Box::new(expr);
            expr = self.node(if sign == "!" { Expr::Not(inner) } else { Expr::Negate(inner) })?;
        }
        Ok(expr)
    }

    /// `.field`, `.method(…)` and `[index]`, as many as there are.
    fn members(&mut self, mut expr: Expr) -> Parsed {
        loop {
            if self.take(".")? {
                let at = self.at.clone();
                let Token::Word(name) = self.advance()? else {
                    return Err(self.error(
                        Kind::Expected { expected: "a field's name", found: self.text[at.clone()].to_owned() },
                        at,
                    ));
                };
                expr = if self.take("(")? {
                    self.method(expr, &name, at)?
                } else if matches!(expr, Expr::Body) {
                    // It counts as the field alone.
                    self.nodes -= 1;
                    self.field(&name)?
                } else {
                    self.node(Expr::Select(Box::new(expr), name.into()))?
                };
            } else if self.take("[")? {
                let index = self.expr()?;
                self.need("]", "`]`")?;
                self.whole_body |= matches!(expr, Expr::Body);
                expr = self.node(Expr::Index(Box::new([expr, index])))?;
            } else {
                self.whole_body |= matches!(expr, Expr::Body);
                return Ok(expr);
            }
        }
    }

    fn primary(&mut self) -> Parsed {
        let at = self.at.clone();
        if matches!(self.token, Token::End) {
            return Err(self.expected("a value"));
        }
        let literal = match self.advance()? {
            Token::Int(n) => Literal::Int(i64::try_from(n).map_err(|_| self.error(Kind::Number, at))?),
            Token::UInt(n) => Literal::UInt(n),
            Token::Double(n) => Literal::Double(n),
            Token::Str(text) => Literal::Str(text.into()),
            Token::Bytes(bytes) => Literal::Bytes(bytes.into()),
            Token::Word(word) => return self.word(word, at),
            Token::Sign("(") => {
                let expr = self.expr()?;
                self.need(")", "`)`")?;
                return Ok(expr);
            }
            Token::Sign("[") => {
                let elements = self.list("]", "`,` or `]`", Self::expr)?;
                return self.node(Expr::List(elements));
            }
            Token::Sign("{") => {
                let entries = self.list("}", "`,` or `}`", |parser| {
                    let key = parser.expr()?;
                    parser.need(":", "`:`")?;
                    Ok((key, parser.expr()?))
                })?;
                return self.node(Expr::Map(entries));
            }
            token => {
                return Err(self.error(Kind::Expected { expected: "a value", found: token.name() }, at));
            }
        };
        self.node(Expr::Literal(literal))
    }

    /// Elements up to the end of a list; a comma may follow the last.
    fn list<T>(
        &mut self,
        end: &str,
        expected: &'static str,
        mut element: impl FnMut(&mut Self) -> Result<T, FilterError>,
    ) -> Result<Vec<T>, FilterError> {
        let mut elements = Vec::new();
        while !self.take(end)? {
            elements.push(element(self)?);
            if !self.is(end) {
                self.need(",", expected)?;
            }
        }
        Ok(elements)
    }

    fn word(&mut self, word: String, at: Range<usize>) -> Parsed {
        if self.is("(") {
            self.advance()?;
            return self.function(&word, at);
        }
        let expr = match word.as_str() {
            word if self.element.as_deref() == Some(word) => Expr::Element,
            "true" => Expr::Literal(Literal::Bool(true)),
            "false" => Expr::Literal(Literal::Bool(false)),
            "null" => Expr::Literal(Literal::Null),
            "in" => {
                return Err(self.error(Kind::Expected { expected: "a value", found: "`in`".to_owned() }, at));
            }
            "channel" => Expr::Name(Name::Channel),
            "origin" => Expr::Name(Name::Origin),
            "key" => Expr::Name(Name::Key),
            "headers" => Expr::Name(Name::Headers),
            "time" => Expr::Name(Name::Time),
            "size" => Expr::Name(Name::Size),
            "body" => Expr::Body,
            word if RESERVED.contains(&word) => return Err(self.error(Kind::Reserved(word.to_owned()), at)),
            word => return self.field(word),
        };
        self.node(expr)
    }

    /// A field of the payload: bound once, however often the filter names it.
    fn field(&mut self, name: &str) -> Parsed {
        let known = self.fields.iter().position(|field| **field == *name);
        let index = known.unwrap_or_else(|| {
            self.fields.push(name.into());
            self.fields.len() - 1
        });
        self.node(Expr::Field(index))
    }

    fn arguments(&mut self) -> Result<Vec<Expr>, FilterError> {
        self.list(")", "`,` or `)`", Self::expr)
    }

    /// `name(…)`, behind its bracket.
    fn function(&mut self, name: &str, at: Range<usize>) -> Parsed {
        let (function, usage) = match name {
            "has" => return self.has(at),
            "size" => (Function::Size, "size(x)"),
            "int" => (Function::Int, "int(x)"),
            "double" => (Function::Double, "double(x)"),
            "matches" => {
                let text = self.expr()?;
                self.need(",", "`,`")?;
                return self.matches(text);
            }
            _ => return Err(self.error(Kind::UnknownFunction(name.to_owned()), at)),
        };
        let arguments = self.arguments()?;
        self.call(function, arguments, 1, usage, at)
    }

    /// `receiver.name(…)`, behind its bracket.
    fn method(&mut self, receiver: Expr, name: &str, at: Range<usize>) -> Parsed {
        self.whole_body |= matches!(receiver, Expr::Body);
        let (function, count, usage) = match name {
            "size" => (Function::Size, 1, "x.size()"),
            "contains" => (Function::Contains, 2, "x.contains(text)"),
            "startsWith" => (Function::StartsWith, 2, "x.startsWith(text)"),
            "endsWith" => (Function::EndsWith, 2, "x.endsWith(text)"),
            "matches" => return self.matches(receiver),
            "all" => return self.comprehension(receiver, Fold::All, "all", at),
            "exists" => return self.comprehension(receiver, Fold::Exists, "exists", at),
            "exists_one" | "existsOne" => return self.comprehension(receiver, Fold::ExistsOne, "exists_one", at),
            "filter" => return self.comprehension(receiver, Fold::Collect, "filter", at),
            "map" => return self.comprehension(receiver, Fold::Collect, "map", at),
            _ => return Err(self.error(Kind::UnknownFunction(name.to_owned()), at)),
        };
        let mut arguments = vec![receiver];
        arguments.extend(self.arguments()?);
        self.call(function, arguments, count, usage, at)
    }

    fn call(
        &mut self,
        function: Function,
        arguments: Vec<Expr>,
        count: usize,
        usage: &'static str,
        at: Range<usize>,
    ) -> Parsed {
        if arguments.len() != count {
            let function = usage.trim_start_matches("x.").split('(').next().unwrap_or(usage);
            return Err(self.error(Kind::Arguments { function, usage }, at));
        }
        self.node(Expr::Call(function, arguments))
    }

    fn has(&mut self, at: Range<usize>) -> Parsed {
        let argument = self.expr()?;
        self.need(")", "`)`")?;
        match argument {
            Expr::Select(of, field) => Ok(Expr::Has(of, field)),
            Expr::Field(index) => Ok(Expr::HasField(index)),
            _ => Err(self.error(Kind::Has, at)),
        }
    }

    /// The pattern, up to the closing bracket. It is compiled here, once.
    fn matches(&mut self, text: Expr) -> Parsed {
        let at = self.at.clone();
        let Token::Str(pattern) = self.advance()? else {
            return Err(self.error(Kind::PatternNotLiteral, at));
        };
        if !self.is(")") {
            return Err(self.error(Kind::PatternNotLiteral, at.start..self.at.end));
        }
        self.advance()?;
        let pattern = Pattern::compile(&pattern).map_err(|error| {
            // Its own messages draw the pattern over several lines; the last says what is wrong.
            let message = error.to_string();
            let last = message.lines().last().unwrap_or_default().trim_start_matches("error: ");
            self.error(Kind::Pattern(last.to_owned()), at)
        })?;
        self.node(Expr::Matches(Box::new(text), pattern))
    }

    /// `(x, test)`, for a map `(x, to)` or `(x, test, to)`, behind the bracket.
    fn comprehension(&mut self, range: Expr, fold: Fold, name: &'static str, at: Range<usize>) -> Parsed {
        if self.element.is_some() {
            return Err(self.error(Kind::NestedComprehension(name), at));
        }
        let usage = match name {
            "all" => "x.all(element, condition)",
            "exists" => "x.exists(element, condition)",
            "exists_one" => "x.exists_one(element, condition)",
            "filter" => "x.filter(element, condition)",
            _ => "x.map(element, value)",
        };
        let element = match self.advance()? {
            Token::Word(word) if !KEYWORDS.contains(&&*word) && !RESERVED.contains(&&*word) => word,
            _ => return Err(self.error(Kind::Arguments { function: name, usage }, at)),
        };
        if !self.take(",")? {
            return Err(self.error(Kind::Arguments { function: name, usage }, at));
        }
        self.element = Some(element);
        let mut parts = self.arguments()?;
        self.element = None;
        let is_map = name == "map";
        if parts.is_empty() || parts.len() > 1 + usize::from(is_map) {
            return Err(self.error(Kind::Arguments { function: name, usage }, at));
        }
        let to = if is_map { parts.pop() } else { None };
        let test = parts.pop();
        self.node(Expr::Comprehension(Box::new(Comprehension { range, fold, test, to })))
    }
}
