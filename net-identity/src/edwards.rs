//! Sums of points of edwards25519 (RFC 8032 §5.1) in variable time: for what is public.
//!
//! Points are added as Hisil, Wong, Carter and Dawson do it (ASIACRYPT 2008, §3.1): a sum in extended coordinates and a point in
//! affine ones take seven multiplications. On this curve the formulas are complete: no two points are an exception, be they equal,
//! opposite or of small order. The field is that of fiat-crypto, whose code comes out of a proof; its two types keep apart what is
//! reduced and what is not.

use std::hint::black_box;

use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
use fiat_crypto::curve25519_64::{
    fiat_25519_add, fiat_25519_carry, fiat_25519_carry_mul, fiat_25519_carry_square, fiat_25519_from_bytes,
    fiat_25519_loose_field_element as Loose, fiat_25519_opp, fiat_25519_relax, fiat_25519_sub,
    fiat_25519_tight_field_element as Tight, fiat_25519_to_bytes,
};

const fn small(number: u64) -> Tight {
    Tight([number, 0, 0, 0, 0])
}

const ZERO: Tight = small(0);
const ONE: Tight = small(1);
/// d of the curve, the lowest byte first.
const D: [u8; 32] = [
    0xa3, 0x78, 0x59, 0x13, 0xca, 0x4d, 0xeb, 0x75, 0xab, 0xd8, 0x41, 0x41, 0x4d, 0x0a, 0x70, 0x00, 0x98, 0xe8, 0x79,
    0x77, 0x79, 0x40, 0xc7, 0x8c, 0x73, 0xfe, 0x6f, 0x2b, 0xee, 0x6c, 0x03, 0x52,
];
/// A square root of −1, the lowest byte first.
const ROOT_OF_MINUS_ONE: [u8; 32] = [
    0xb0, 0xa0, 0x0e, 0x4a, 0x27, 0x1b, 0xee, 0xc4, 0x78, 0xe4, 0x2f, 0xad, 0x06, 0x18, 0x43, 0x2f, 0xa7, 0xd7, 0xfb,
    0x3d, 0x99, 0x00, 0x4d, 0x2b, 0x0b, 0xdf, 0xc1, 0x4f, 0x80, 0x24, 0x83, 0x2b,
];

#[inline]
fn mul(a: &Loose, b: &Loose) -> Tight {
    let mut product = ZERO;
    fiat_25519_carry_mul(&mut product, a, b);
    product
}

#[inline]
fn add(a: &Tight, b: &Tight) -> Loose {
    let mut sum = relax(&ZERO);
    fiat_25519_add(&mut sum, a, b);
    sum
}

#[inline]
fn sub(a: &Tight, b: &Tight) -> Loose {
    let mut difference = relax(&ZERO);
    fiat_25519_sub(&mut difference, a, b);
    difference
}

#[inline]
fn negate(a: &Tight) -> Loose {
    let mut negative = relax(&ZERO);
    fiat_25519_opp(&mut negative, a);
    negative
}

#[inline]
fn relax(a: &Tight) -> Loose {
    let mut loose = Loose([0; 5]);
    fiat_25519_relax(&mut loose, a);
    loose
}

#[inline]
fn carry(a: &Loose) -> Tight {
    let mut tight = ZERO;
    fiat_25519_carry(&mut tight, a);
    tight
}

/// Of bytes whose highest bit is not set.
fn from_bytes(bytes: &[u8; 32]) -> Tight {
    debug_assert!(bytes[31] < 0x80, "the field's code takes 255 bits");
    let mut element = ZERO;
    fiat_25519_from_bytes(&mut element, bytes);
    element
}

/// The one encoding of an element: it is below p.
fn to_bytes(a: &Tight) -> [u8; 32] {
    let mut bytes = [0; 32];
    fiat_25519_to_bytes(&mut bytes, a);
    bytes
}

/// An element whose lowest bit is set: RFC 8032's "negative".
fn is_odd(a: &Tight) -> bool {
    to_bytes(a)[0] & 1 == 1
}

fn product(a: &Tight, b: &Tight) -> Tight {
    mul(&relax(a), &relax(b))
}

/// a^(2^`times`).
fn squared(a: &Tight, times: u32) -> Tight {
    let mut square = *a;
    for _ in 0..times {
        let root = relax(&square);
        fiat_25519_carry_square(&mut square, &root);
    }
    square
}

/// a^(2^250 − 1) and a^11, from which both powers below are a few steps (Bernstein, PKC 2006).
fn powers(a: &Tight) -> (Tight, Tight) {
    let two = squared(a, 1);
    let nine = product(&squared(&two, 2), a);
    let eleven = product(&nine, &two);
    let ones5 = product(&squared(&eleven, 1), &nine);
    let ones10 = product(&squared(&ones5, 5), &ones5);
    let ones20 = product(&squared(&ones10, 10), &ones10);
    let ones40 = product(&squared(&ones20, 20), &ones20);
    let ones50 = product(&squared(&ones40, 10), &ones10);
    let ones100 = product(&squared(&ones50, 50), &ones50);
    let ones200 = product(&squared(&ones100, 100), &ones100);
    (product(&squared(&ones200, 50), &ones50), eleven)
}

/// a^(p − 2) = 1/a; zero of zero.
fn invert(a: &Tight) -> Tight {
    let (ones250, eleven) = powers(a);
    product(&squared(&ones250, 5), &eleven)
}

/// x of a point with this y, and of its two values the odd one if `odd`; nothing if there is none (RFC 8032 §5.1.3).
fn x_of(y: &Tight, odd: bool) -> Option<Tight> {
    let square = squared(y, 1);
    let u = carry(&sub(&square, &ONE));
    let v = carry(&add(&product(&from_bytes(&D), &square), &ONE));
    let v3 = product(&squared(&v, 1), &v);
    let uv7 = product(&product(&squared(&v3, 1), &v), &u);
    let power = product(&squared(&powers(&uv7).0, 2), &uv7);
    let candidate = product(&product(&u, &v3), &power);
    let root = [candidate, product(&candidate, &from_bytes(&ROOT_OF_MINUS_ONE))]
        .into_iter()
        .find(|x| to_bytes(&product(&v, &squared(x, 1))) == to_bytes(&u))?;
    let x = if is_odd(&root) == odd { root } else { carry(&negate(&root)) };
    // Zero is even, and so is what is opposite to it.
    (is_odd(&x) == odd).then_some(x)
}

/// A point in affine coordinates, kept as sums need it: y + x, y − x and 2dxy. In two lines of the cache.
#[derive(Clone, Copy)]
#[repr(C, align(128))]
pub(crate) struct Affine {
    plus: Tight,
    minus: Tight,
    xy2d: Tight,
}

const _: () = assert!(size_of::<Affine>() == 128);

impl Affine {
    fn of(x: &Tight, y: &Tight) -> Self {
        let d = from_bytes(&D);
        let xy2d = mul(&add(&d, &d), &relax(&product(x, y)));
        Self { plus: carry(&add(y, x)), minus: carry(&sub(y, x)), xy2d }
    }

    /// A point of the library's. `None` only for what is no point, which an [`EdwardsPoint`] never is.
    pub(crate) fn from_point(point: &EdwardsPoint) -> Option<Self> {
        let CompressedEdwardsY(mut bytes) = point.compress();
        let odd = bytes[31] >> 7 == 1;
        bytes[31] &= 0x7f;
        let y = from_bytes(&bytes);
        Some(Self::of(&x_of(&y, odd)?, &y))
    }

    /// The point itself, to be added.
    pub(crate) fn term(&self) -> Term<'_> {
        Term { point: self, opposite: false }
    }
}

/// What is added to a sum: a point, or the one opposite to it.
#[derive(Clone, Copy)]
pub(crate) struct Term<'a> {
    pub(crate) point: &'a Affine,
    pub(crate) opposite: bool,
}

/// A sum of points: x = X/Z, y = Y/Z and xy = T/Z.
#[derive(Clone, Copy)]
pub(crate) struct Sum {
    x: Tight,
    y: Tight,
    z: Tight,
    t: Tight,
}

impl Sum {
    /// The sum of none.
    pub(crate) const NEUTRAL: Self = Self { x: ZERO, y: ONE, z: ONE, t: ZERO };

    /// The sum of all.
    pub(crate) fn of(terms: &[Term<'_>]) -> Self {
        // Additions wait for each other, reads of what is not in the cache do not: both lines of all are read before any is added.
        black_box(terms.iter().fold(0, |read, term| read ^ term.point.plus.0[0] ^ term.point.xy2d.0[4]));
        terms.iter().fold(Self::NEUTRAL, |sum, term| sum.plus(term))
    }

    /// With one more.
    #[must_use]
    #[inline]
    pub(crate) fn plus(&self, term: &Term<'_>) -> Self {
        let Affine { plus, minus, xy2d } = term.point;
        let (plus, minus) = if term.opposite { (minus, plus) } else { (plus, minus) };
        let a = mul(&sub(&self.y, &self.x), &relax(minus));
        let b = mul(&add(&self.y, &self.x), &relax(plus));
        let c = mul(&relax(&self.t), &relax(xy2d));
        let d = carry(&add(&self.z, &self.z));
        let (less, more) = (sub(&d, &c), add(&d, &c));
        let (e, h) = (sub(&b, &a), add(&b, &a));
        let (f, g) = if term.opposite { (more, less) } else { (less, more) };
        Self { x: mul(&e, &f), y: mul(&g, &h), z: mul(&f, &g), t: mul(&e, &h) }
    }

    /// Twice the sum, by four squarings and four multiplications (there, §3.3).
    #[must_use]
    pub(crate) fn doubled(&self) -> Self {
        let (xx, yy, zz) = (squared(&self.x, 1), squared(&self.y, 1), squared(&self.z, 1));
        let both = carry(&add(&xx, &yy));
        let xy = squared(&carry(&add(&self.x, &self.y)), 1);
        let g = carry(&sub(&yy, &xx));
        let (e, f, g, h) = (sub(&xy, &both), sub(&g, &carry(&add(&zz, &zz))), relax(&g), negate(&both));
        Self { x: mul(&e, &f), y: mul(&g, &h), z: mul(&f, &g), t: mul(&e, &h) }
    }

    /// The encoding of RFC 8032 §5.1.2.
    pub(crate) fn compress(&self) -> CompressedEdwardsY {
        let inverse = invert(&self.z);
        let mut bytes = to_bytes(&product(&self.y, &inverse));
        bytes[31] |= u8::from(is_odd(&product(&self.x, &inverse))) << 7;
        CompressedEdwardsY(bytes)
    }

    /// Each in affine coordinates, with one inversion for all (Montgomery, Math. Comp. 1987, §10.3.1).
    pub(crate) fn to_affine(sums: &[Self]) -> Vec<Affine> {
        let mut before = Vec::with_capacity(sums.len());
        let mut all = ONE;
        for sum in sums {
            before.push(all);
            all = product(&all, &sum.z);
        }
        let mut inverse = invert(&all);
        let mut affine: Vec<Affine> = sums
            .iter()
            .zip(&before)
            .rev()
            .map(|(sum, before)| {
                let of_z = product(&inverse, before);
                inverse = product(&inverse, &sum.z);
                Affine::of(&product(&sum.x, &of_z), &product(&sum.y, &of_z))
            })
            .collect();
        affine.reverse();
        affine
    }
}

#[cfg(test)]
mod tests {
    use curve25519_dalek::constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION};
    use curve25519_dalek::scalar::Scalar;

    use super::*;

    /// Points of the whole group: of small order, of the order of the base point, and sums of both; and what is opposite to them.
    fn points() -> Vec<EdwardsPoint> {
        let mut points = EIGHT_TORSION.to_vec();
        for n in [1_u64, 2, 3, 0xffff_ffff_ffff_ffff] {
            let point = EdwardsPoint::mul_base(&Scalar::from(n));
            points.extend([point, -point, point + EIGHT_TORSION[1], EIGHT_TORSION[4] - point]);
        }
        points
    }

    fn affine(point: &EdwardsPoint) -> Affine {
        Affine::from_point(point).expect("a point of the library's")
    }

    #[test]
    fn constants_are_those_of_the_curve() {
        let minus_one = to_bytes(&carry(&negate(&ONE)));
        assert_eq!(to_bytes(&squared(&from_bytes(&ROOT_OF_MINUS_ONE), 1)), minus_one);
        let (numerator, denominator) = (small(121_665), small(121_666));
        let d = carry(&negate(&product(&numerator, &invert(&denominator))));
        assert_eq!(to_bytes(&d), D);
    }

    #[test]
    fn any_two_points_add_as_the_library_adds_them() {
        for a in points() {
            for b in points() {
                // Not in its simplest form, so that Z is not one.
                let sum = Sum::NEUTRAL.plus(&affine(&b).term()).plus(&affine(&a).term());
                assert_eq!(sum.compress(), (a + b).compress());
                assert_eq!(sum.doubled().compress(), (a + b + a + b).compress());
                assert_eq!(sum.doubled().plus(&affine(&b).term()).compress(), (a + b + a + b + b).compress());
                assert_eq!(sum.plus(&Term { opposite: true, ..affine(&b).term() }).compress(), a.compress());
                assert_eq!(sum.plus(&affine(&b).term()).compress(), (a + b + b).compress());
            }
        }
    }

    #[test]
    fn long_sums_are_those_of_the_library() {
        let (mut sum, mut expected) = (Sum::NEUTRAL, EdwardsPoint::default());
        let mut scalar = Scalar::from(3_u64);
        for n in 0..2_000 {
            scalar *= scalar + Scalar::ONE;
            let point = EdwardsPoint::mul_base(&scalar);
            let opposite = scalar.as_bytes()[3] & 1 == 1;
            sum = sum.plus(&Term { opposite, ..affine(&point).term() });
            expected += if opposite { -point } else { point };
            if n % 10 == 0 {
                assert_eq!(sum.compress(), expected.compress(), "after {n}");
            }
        }
    }

    #[test]
    fn affine_coordinates_of_many_are_those_of_each() {
        let mut sums = vec![Sum::NEUTRAL];
        for point in points() {
            sums.push(sums[sums.len() - 1].plus(&affine(&point).term()));
        }
        let many = Sum::to_affine(&sums);
        assert_eq!(many.len(), sums.len());
        for (affine, sum) in many.iter().zip(&sums) {
            assert_eq!(Sum::NEUTRAL.plus(&affine.term()).compress(), sum.compress());
        }
        assert!(Sum::to_affine(&[]).is_empty());
    }

    #[test]
    fn y_without_a_point_has_no_x() {
        let mut without = 0;
        for y in 0..=255_u8 {
            let mut bytes = [0; 32];
            bytes[0] = y;
            let library = CompressedEdwardsY(bytes).decompress();
            let ours = x_of(&from_bytes(&bytes), false).map(|x| Affine::of(&x, &from_bytes(&bytes)));
            assert_eq!(ours.is_some(), library.is_some(), "{y}");
            let Some((ours, library)) = ours.zip(library) else {
                without += 1;
                continue;
            };
            assert_eq!(Sum::NEUTRAL.plus(&ours.term()).compress(), library.compress());
        }
        assert!(without > 64, "half of them: {without}");
        assert!(x_of(&ONE, false).is_some(), "the neutral point");
        assert!(x_of(&ONE, true).is_none(), "which has no other sign");
    }

    #[test]
    fn base_point_is_decoded() {
        let base = affine(&ED25519_BASEPOINT_POINT);
        assert_eq!(Sum::NEUTRAL.plus(&base.term()).compress(), ED25519_BASEPOINT_POINT.compress());
        assert_eq!(
            Sum::NEUTRAL.plus(&Term { opposite: true, ..base.term() }).compress(),
            (-ED25519_BASEPOINT_POINT).compress()
        );
    }
}
