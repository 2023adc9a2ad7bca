//! Filters: what they match, how they fail, and that nothing makes them expensive.

use cel::{Context, Program};
use net_channel::{BatchBuilder, Event, EventBatch, Filter, FilterErrorKind, FilterMiss};
use proptest::prelude::*;

use crate::fixture::{Fixture, TIME};

const QUAKE: &str = r#"{"id":"us2000crkq","net":"us","mag":5.3,"place":"50km NNW of Sangiang, Indonesia","time":7,
    "felt":null,"sig":432,"tags":["deep","sea"],"at":{"lat":-7.8,"lon":118.7},"depth_km":10,"size":"huge","n":3.0}"#;

fn event_with(payload: &[u8], key: Option<&[u8]>, headers: &[(&str, &[u8])]) -> Event {
    let fixture = Fixture::new();
    let mut builder = BatchBuilder::new();
    builder.push(payload, key, headers, TIME).expect("it fits");
    let sealed = builder.seal(&fixture.params()).expect("it can be sealed");
    let open = fixture.verify(sealed.frame()).expect("genuine").open(&fixture.sender_key).expect("the right key");
    EventBatch::new(fixture.name, fixture.origin, open).event(0).expect("one event was sealed")
}

fn event(payload: &str) -> Event {
    event_with(payload.as_bytes(), Some(b"car-12"), &[("unit", b"km/h"), ("unit", b"mph"), ("raw", b"\xff")])
}

fn matches(filter: &str, payload: &str) -> Result<bool, FilterMiss> {
    let filter = Filter::parse(filter).unwrap_or_else(|e| panic!("{e}\n{}", e.pointer()));
    filter.matches(&event(payload))
}

#[test]
fn filters_match_what_they_say() {
    for filter in [
        // Fields.
        "mag > 4",
        "mag > 4 && place.contains('Indonesia')",
        "body.mag == mag && body['mag'] == mag",
        "at.lat < 0 && at['lon'] > 118.0",
        "felt == null",
        "tags[0] == 'deep' && tags[1] == \"sea\"",
        "tags[0.0] == 'deep'",
        "!(mag < 5) ? true : false",
        "'deep' in tags && !('shallow' in tags)",
        "'lat' in at && has(at.lat) && !has(at.alt)",
        "has(mag) && !has(body.magnitude)",
        "size(body) == 12 && 'mag' in body",
        // What every event has, and its precedence over fields.
        "channel == 'vehicles/fleet-7/telemetry'",
        "channel.startsWith('vehicles/') && channel.endsWith('/telemetry')",
        "key == 'car-12' && key != 'car-13'",
        "headers.unit == 'km/h' && headers['unit'] == 'km/h'",
        "headers.raw == b'\\xff'",
        "!has(headers.none)",
        "time == 1800000000000 && body.time == 7",
        "size > 100 && body.size == 'huge'",
        "origin.size() > 20",
        // Numbers.
        "1 + 2 * 3 == 7 && (1 + 2) * 3 == 9 && 7 / 2 == 3 && 7 % 4 == 3 && 1 - 2 - 3 == -4",
        "1 == 1.0 && 1u == 1 && 2 > 1.5 && n == 3 && depth_km * 1.5 == 15.0",
        "-9223372036854775808 < 0 && 0x10 == 16 && 1e3 == 1000.0 && .5 == 0.5",
        "int('42') == 42 && int(5.9) == 5 && double('1.5') == 1.5 && double(2) == 2.0",
        "9007199254740993 != 9007199254740992.0",
        // Text.
        r"'a\n' == '''a
''' && r'\n'.size() == 2 && '\u00e9' == 'é' && '\x41\101' == 'AA'",
        "'é'.size() == 1 && 'a' < 'b' && 'a' + 'b' == 'ab'",
        "place.matches('^[0-9]+km') && matches(place, 'Sangiang')",
        // Lists and maps.
        "[1, 2] + [3] == [1, 2, 3] && [1, 2,].size() == 2 && 2 in [1, 2]",
        "{'a': 1}.a == 1 && {'a': 1}['a'] == 1.0 && 'a' in {'a': 1}",
        // Comprehensions, one after the other too.
        "tags.all(t, t.size() > 2) && tags.exists(t, t == 'sea') && tags.exists_one(t, t == 'sea')",
        "tags.map(t, t.size()) == [4, 3] && tags.filter(t, t != 'sea') == ['deep']",
        "tags.map(t, t != 'sea', t + '!') == ['deep!'] && at.exists(k, k == 'lat')",
        "tags.filter(t, t != 'sea').exists(x, x == 'deep') && tags.all(mag, mag.size() > 2)",
        // One side decides, whatever the other is.
        "missing == 1 || mag > 4",
        "tags.exists(t, t == 'deep' || missing)",
        "!(missing == 1 && mag > 100)",
        "mag > 4 // a comment",
    ] {
        assert_eq!(matches(filter, QUAKE), Ok(true), "{filter}");
    }
    for filter in
        ["mag > 6", "felt == 1", "mag == 'text'", "tags == []", "key == null", "double('nan') == double('nan')"]
    {
        assert_eq!(matches(filter, QUAKE), Ok(false), "{filter}");
    }
}

#[test]
fn what_cannot_be_computed_is_no_match_and_says_why() {
    for (filter, miss) in [
        ("magnitude > 4", FilterMiss::Missing),
        ("at.alt > 4", FilterMiss::Missing),
        ("tags[2] == ''", FilterMiss::Missing),
        ("tags[-1] == ''", FilterMiss::Missing),
        ("headers.none == ''", FilterMiss::Missing),
        ("place > 4", FilterMiss::WrongType),
        ("place.lat > 4", FilterMiss::WrongType),
        ("mag", FilterMiss::WrongType),
        ("mag && true", FilterMiss::WrongType),
        ("!mag", FilterMiss::WrongType),
        ("mag.contains('5')", FilterMiss::WrongType),
        ("mag.all(x, x)", FilterMiss::WrongType),
        ("1 / 0 == 1", FilterMiss::WrongType),
        ("1 % 0 == 1", FilterMiss::WrongType),
        ("9223372036854775807 + 1 > 0", FilterMiss::WrongType),
        ("-9223372036854775808 / -1 > 0", FilterMiss::WrongType),
        ("-(-9223372036854775808) > 0", FilterMiss::WrongType),
        ("0u - 1u > 0u", FilterMiss::WrongType),
        ("int(1e300) > 0", FilterMiss::WrongType),
        ("tags['0'] == ''", FilterMiss::WrongType),
        ("tags[0.5] == ''", FilterMiss::WrongType),
        ("{'a': 1, 'a': 2}.a == 1", FilterMiss::WrongType),
    ] {
        assert_eq!(matches(filter, QUAKE), Err(miss), "{filter}");
    }
}

#[test]
fn payload_is_read_only_if_the_filter_needs_it() {
    for payload in ["", "speed 81", "{\"a\":1}x", "{\"a\":1,\"b\":}", "[1,2", "\u{1}"] {
        assert_eq!(matches("a == 1", payload), Err(FilterMiss::Unreadable), "{payload}");
        assert_eq!(matches("channel.startsWith('vehicles')", payload), Ok(true));
        assert_eq!(matches("size < 100 || a == 1", payload), Ok(true));
    }
    for payload in ["1", "[1, 2]", "\"text\"", "null", "true", "1.5", "-1"] {
        assert_eq!(matches("a == 1", payload), Err(FilterMiss::Missing), "{payload}");
    }
    assert_eq!(matches("body == [1, 2]", "[1, 2]"), Ok(true));
    assert_eq!(matches("a == 2", r#"{"a":1,"a":2}"#), Ok(true), "of fields of one name the last counts");
    assert_eq!(matches("body.a == 2 && body == {'a': 2}", r#"{"a":1,"a":2}"#), Ok(true));
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(200), "]".repeat(200));
    assert_eq!(matches("a != 1", &deep), Err(FilterMiss::Unreadable));
    let large = format!("{{\"a\":1,\"b\":\"{}\"}}", "x".repeat(64 << 10));
    assert_eq!(matches("a == 1", &large), Err(FilterMiss::Unreadable));
}

#[test]
fn errors_point_into_the_text() {
    for (text, pointer) in [
        ("", "\n^"),
        ("mag >", "mag >\n     ^"),
        ("mag > 4 &&", "mag > 4 &&\n          ^"),
        ("mag > 4 5", "mag > 4 5\n        ^"),
        ("mag = 4", "mag = 4\n    ^"),
        ("mag > 4 & x", "mag > 4 & x\n        ^"),
        ("a == 'text", "a == 'text\n     ^^^^^"),
        (r"a == 'x\q'", "a == 'x\\q'\n       ^^"),
        ("ü > 1", "ü > 1\n^"),
        ("'ü' > ü", "'ü' > ü\n      ^"),
        ("a.near(b)", "a.near(b)\n  ^^^^"),
        ("near(b)", "near(b)\n^^^^"),
        ("a.contains()", "a.contains()\n  ^^^^^^^^"),
        ("a.contains('x', 'y')", "a.contains('x', 'y')\n  ^^^^^^^^"),
        ("has(a[0])", "has(a[0])\n^^^"),
        ("a.all(x, x.all(y, y))", "a.all(x, x.all(y, y))\n           ^^^"),
        ("a.all(x, [1].map(y, y) == x)", "a.all(x, [1].map(y, y) == x)\n             ^^^"),
        ("a.all(1, x)", "a.all(1, x)\n  ^^^"),
        ("a.all(true, x)", "a.all(true, x)\n  ^^^"),
        ("a.all(x)", "a.all(x)\n  ^^^"),
        ("a.matches(b)", "a.matches(b)\n          ^"),
        ("a.matches('x' + b)", "a.matches('x' + b)\n          ^^^^^"),
        ("a.matches('(')", "a.matches('(')\n          ^^^"),
        ("1 + 2", "1 + 2\n^^^^^"),
        ("'text'", "'text'\n^^^^^^"),
        ("a > 99999999999999999999", "a > 99999999999999999999\n    ^^^^^^^^^^^^^^^^^^^^"),
        ("a > 1.2.3", "a > 1.2.3\n    ^^^^^"),
        ("package == 1", "package == 1\n^^^^^^^"),
        ("a == 1 &&\n  b.c( == 2", "  b.c( == 2\n    ^"),
        ("a == [1, 2", "a == [1, 2\n          ^"),
        ("a == {'x' 1}", "a == {'x' 1}\n          ^"),
        ("a == (1", "a == (1\n       ^"),
        ("a ? b", "a ? b\n     ^"),
        ("a[1", "a[1\n   ^"),
        ("a.1", "a.1\n ^^"),
        ("\u{1b}[2J", " [2J\n^"),
    ] {
        let error = Filter::parse(text).expect_err(text);
        assert_eq!(error.pointer(), pointer, "{text}: {error}");
        assert!(!error.to_string().chars().any(char::is_control), "{error}");
    }
    let error = Filter::parse("a == 1 &&\n  near(b)").expect_err("no such function");
    assert_eq!((error.line(), error.column(), error.span()), (2, 3, 12..16));
    assert_eq!(error.kind(), &FilterErrorKind::UnknownFunction("near".to_owned()));
    assert!(error.to_string().ends_with("(at line 2, character 3)"), "{error}");
}

#[test]
fn texts_over_the_limits_are_refused() {
    let kind = |text: &str| Filter::parse(text).expect_err("over a limit").kind().clone();
    assert_eq!(kind(&format!("a == 1{}", " ".repeat(1_019))), FilterErrorKind::TooLong(1_025));
    assert!(Filter::parse(&format!("a == 1{}", " ".repeat(1_018))).is_ok());
    for (open, close) in
        [("(", ")"), ("[", "]"), ("{'a':", "}"), ("!(", ")"), ("size(", ")"), ("a[", "]"), ("true?1:(", ")")]
    {
        let text = format!("{}1{} == 1", open.repeat(100), close.repeat(100));
        assert_eq!(kind(&text), FilterErrorKind::TooDeep, "{open}");
    }
    assert_eq!(kind(&format!("a{}", "?a:a".repeat(200))), FilterErrorKind::TooDeep);
    for text in [
        format!("{}a", "!".repeat(1_000)),
        format!("a == {}1", "-".repeat(1_000)),
        format!("a{}", ".a".repeat(500)),
        format!("a{}", "[0]".repeat(300)),
        format!("a{}", "+1".repeat(500)),
        format!("a{}", "&&a".repeat(300)),
        format!("a in [{}]", "1,".repeat(500)),
        format!("a{}", ".map(x,x)".repeat(100)),
    ] {
        assert_eq!(kind(&text), FilterErrorKind::TooManyNodes, "{text}");
    }
    for pattern in [
        r"(\\w{50}){50}",
        r"a{1000}{1000}",
        r"(\\w\\w?\\w?){8}",
        r"\\pL{200}",
        r"(((((((((((((((((((((((((((((a)))))))))))))))))))))))))))))",
    ] {
        let text = format!("a.matches('{pattern}')");
        assert!(matches!(kind(&text), FilterErrorKind::Pattern(_)), "{text}");
    }
}

/// What the filter tries to make long is long on this payload, and is ended.
#[test]
fn hostile_filters_are_ended() {
    let numbers = format!(r#"{{"a":[{}0],"s":"{}"}}"#, "0,".repeat(16_000), "x".repeat(30_000));
    let lists = format!(r#"{{"a":[{}[]],"m":{{{}"z":0}}}}"#, "[0,1,2,3,4,5,6,7],".repeat(3_000), {
        let fields: Vec<String> = (0..800).map(|n| format!("\"{n}\":0,")).collect();
        fields.concat()
    });
    for (filter, payload) in [
        // Text is compared, searched or doubled for each element.
        ("a.all(x, s == s && s == s)", &numbers),
        ("a.all(x, s.contains('y') || true)", &numbers),
        ("a.map(x, s + s + s + s).size() > 0", &numbers),
        ("a.all(x, s.size() > 0)", &numbers),
        ("a.all(x, !(s < s))", &numbers),
        // Patterns.
        ("a.all(x, !s.matches('(x|xx)+y'))", &numbers),
        ("a.all(x, !s.matches('[xy]*y[xy]{20}z'))", &numbers),
        // Lists grow, or are searched, for each element.
        ("a.map(x, a + a).size() > 0", &numbers),
        ("a.map(x, [x,x,x,x,x,x,x,x] + [x,x,x,x,x,x,x,x]).size() > 0", &numbers),
        ("a.all(x, !(1 in a))", &numbers),
        ("a.map(x, {'a': a, 'b': a}).all(y, y == {'a': a, 'b': a})", &numbers),
        ("a.all(x, a == a)", &lists),
        ("a.all(x, m == m)", &lists),
        ("a.exists_one(x, a == [])|| a.all(x, m == m)", &lists),
        // Much arithmetic, and an error that every step goes past.
        ("a.all(x, x+x+x+x+x+x+x+x+x+x+x+x+x+x+x+x*x*x*x*x*x*x*x*x*x*x == 0)", &numbers),
        ("a.all(x, missing || a == a)", &lists),
        ("a.exists(x, !missing && a != a)", &lists),
    ] {
        assert_eq!(matches(filter, payload), Err(FilterMiss::TooCostly), "{filter}");
    }
    // And what one would write is not.
    assert_eq!(matches("a.all(x, x < 5)", &numbers), Ok(true));
    assert_eq!(matches("s.contains('y') || s.matches('^x+$')", &numbers), Ok(true));
    assert_eq!(matches(r"s.matches('\\w@\\w')", &numbers), Err(FilterMiss::TooCostly), "Unicode in a long text");
    assert_eq!(matches(r"s.matches('[a-z]+@[a-z]+\\.[a-z]')", &numbers), Ok(false));
    assert_eq!(matches("a.filter(x, x > 0).size() == 0", &numbers), Ok(true));
}

/// Nesting six deep over ten elements took 189 ms an event before it was refused.
#[test]
fn nested_comprehensions_are_refused_wherever_they_stand() {
    for text in [
        "a.all(q, a.all(r, a.all(s, a.all(t, a.all(u, a.all(v, v > 0))))))",
        "a.map(q, a.map(r, r)).size() > 0",
        "a.all(q, q.exists(r, r == 1))",
        "a.all(q, size(a.filter(r, r)) > 0)",
        "a.all(q, [a.exists_one(r, r)] == [])",
    ] {
        let error = Filter::parse(text).expect_err(text);
        assert!(matches!(error.kind(), FilterErrorKind::NestedComprehension(_)), "{text}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_a_filter_or_an_error(text in "\\PC{0,300}|.{0,256}") {
        survives(&text);
    }

    /// Pieces of the language in any order come further than any characters do.
    #[test]
    fn any_pieces_of_the_language_are_a_filter_or_an_error(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..80)) {
        survives(&pieces.concat());
    }

    /// What is accepted here, the reference implementation in Rust computes alike.
    #[test]
    fn accepted_filters_mean_what_cel_means(text in expression()) {
        let ours = match Filter::parse(&text) {
            Ok(filter) => filter,
            Err(error) => {
                let over = matches!(error.kind(), FilterErrorKind::TooManyNodes | FilterErrorKind::TooLong(_));
                prop_assert!(over, "{error}: {text}");
                return Ok(());
            }
        };
        let Ok(program) = Program::compile(&text) else {
            return Err(TestCaseError::fail(format!("not CEL: {text}")));
        };
        let ours = ours.matches(&event(QUAKE));
        match program.execute(&reference()) {
            Ok(cel::Value::Bool(theirs)) => prop_assert_eq!(ours, Ok(theirs), "{}", text),
            Ok(_) => prop_assert_eq!(ours, Err(FilterMiss::WrongType), "{}", text),
            // Whole numbers and doubles mix here in arithmetic.
            Err(_) => prop_assert!(ours.is_err() || text.contains(['+', '-', '*', '/', '%']), "{} is {:?}", text, ours),
        }
    }
}

const PIECES: &[&str] = &[
    "a",
    "body",
    "mag",
    "tags",
    "headers",
    "size",
    "x",
    ".",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    "?",
    "!",
    "-",
    "+",
    "*",
    "/",
    "%",
    "==",
    "!=",
    "<",
    "<=",
    "&&",
    "||",
    " in ",
    "1",
    "1u",
    "0x",
    "1.5",
    "1e9",
    "'t'",
    "r'\\'",
    "\"",
    "'''",
    "\\",
    "true",
    "null",
    ".all(x,",
    ".map(x,",
    ".exists(x,",
    ".matches('a+')",
    ".size()",
    "size(",
    "has(",
    "int(",
    "//",
    "\n",
    " ",
    "é",
    "\0",
    "9223372036854775808",
];

fn survives(text: &str) {
    match Filter::parse(text) {
        Ok(filter) => {
            // Whatever comes of it: it ends.
            let _ = filter.matches(&event(QUAKE));
            assert_eq!(Filter::parse(filter.text()), Ok(filter.clone()));
        }
        Err(error) => {
            assert!(error.span().end <= text.len() && text.get(error.span()).is_some());
            assert!(error.pointer().lines().count() <= 2);
        }
    }
}

/// Expressions over the fields of `QUAKE`, most of them well typed.
fn expression() -> impl Strategy<Value = String> {
    let number = prop_oneof![
        Just("mag".to_owned()),
        Just("sig".to_owned()),
        Just("depth_km".to_owned()),
        Just("at.lat".to_owned()),
        Just("tags.size()".to_owned()),
        any::<i8>().prop_map(|n| n.to_string()),
        (0..9_u8, 0..9_u8).prop_map(|(a, b)| format!("{a}.{b}")),
    ];
    let number = number.prop_recursive(2, 8, 2, |inner| {
        (inner.clone(), prop::sample::select(&["+", "-", "*", "/", "%"][..]), inner)
            .prop_map(|(a, op, b)| format!("({a} {op} {b})"))
    });
    let text = prop_oneof![
        Just("place".to_owned()),
        Just("net".to_owned()),
        Just("tags[0]".to_owned()),
        Just("tags[1]".to_owned()),
        "[a-d]{0,2}".prop_map(|text| format!("'{text}'")),
    ];
    let list = prop_oneof![
        Just("tags".to_owned()),
        prop::collection::vec(text.clone(), 0..3).prop_map(|of| format!("[{}]", of.join(", "))),
        Just("tags.map(t, t + 'x')".to_owned()),
        Just("tags.filter(t, t.contains('e'))".to_owned()),
    ];
    let order = prop::sample::select(&["<", "<=", ">", ">=", "==", "!="][..]);
    let truth = prop_oneof![
        (number.clone(), order.clone(), number.clone()).prop_map(|(a, op, b)| format!("{a} {op} {b}")),
        (text.clone(), order.clone(), text.clone()).prop_map(|(a, op, b)| format!("{a} {op} {b}")),
        (number, order, text.clone()).prop_map(|(a, op, b)| format!("{a} {op} {b}")),
        (text.clone(), list.clone()).prop_map(|(a, b)| format!("{a} in {b}")),
        (list.clone(), list.clone()).prop_map(|(a, b)| format!("{a} == {b}")),
        (text.clone(), prop::sample::select(&["contains", "startsWith", "endsWith"][..]), text.clone())
            .prop_map(|(a, f, b)| format!("{a}.{f}({b})")),
        (text.clone(), "[a-c]{1,2}[+*]?").prop_map(|(a, p)| format!("{a}.matches('{p}')")),
        (list, prop::sample::select(&["all", "exists", "exists_one"][..]), text)
            .prop_map(|(a, f, b)| format!("{a}.{f}(t, t == {b})")),
        prop::sample::select(&["true", "false", "felt == null", "has(at.lat)", "has(at.no)", "absent"][..])
            .prop_map(str::to_owned),
    ];
    truth.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} && {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} || {b})")),
            inner.clone().prop_map(|a| format!("!({a})")),
            (inner.clone(), inner.clone(), inner).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
        ]
    })
}

/// The fields of `QUAKE` for the reference implementation.
fn reference() -> Context<'static, 'static> {
    let mut context = Context::default();
    let at = std::collections::HashMap::from([("lat", -7.8), ("lon", 118.7)]);
    context.add_variable("mag", 5.3).expect("a value");
    context.add_variable("sig", 432_i64).expect("a value");
    context.add_variable("depth_km", 10_i64).expect("a value");
    context.add_variable("at", at).expect("a value");
    context.add_variable("tags", vec!["deep", "sea"]).expect("a value");
    context.add_variable("place", "50km NNW of Sangiang, Indonesia").expect("a value");
    context.add_variable("net", "us").expect("a value");
    context.add_variable_from_value("felt", cel::Value::Null);
    context
}
