//! A key that many signatures are checked with.

use std::collections::BTreeMap;
use std::fmt;
use std::iter;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError, TryLockError, Weak};

use curve25519_dalek::constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION};
use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
use curve25519_dalek::scalar::Scalar;
use net_transport::BadSignature;
use sha2::{Digest as _, Sha512};

use crate::EntityId;
use crate::edwards::{Affine, Sum, Term};

/// Good signatures after which a table is made, which takes 0.7 ms; the first one of a process 2 ms.
const TABLE_AFTER: u32 = 64;
/// Tables in this process: 19 MiB, with that of the base point. Keys beyond have none.
const TABLES_MAX: usize = 64;

/// 1 to 2^(`BITS` - 1) times each of P, 2^`BITS`·P, 2^(2·`BITS`)·P and so on: with them a multiple of P takes an addition for
/// each `BITS` bits and no doubling (fixed-base windowing; Brickell, Gordon, McCurley and Wilson, EUROCRYPT '92). In variable
/// time: for what is public.
struct Multiples<const BITS: usize>(Box<[Affine]>);

/// Digits of a scalar, which is below 2^253.
const fn digits_of(bits: usize) -> usize {
    253_usize.div_ceil(bits)
}

impl<const BITS: usize> Multiples<BITS> {
    const DIGITS: usize = digits_of(BITS);
    /// Of one digit's point: digits go from `-MULTIPLES` to `MULTIPLES`, and a negative one is subtracted.
    const MULTIPLES: usize = 1 << (BITS - 1);

    fn of(point: &Affine) -> Self {
        let first = Sum::NEUTRAL.plus(&point.term());
        let bases = iter::successors(Some(first), |base| Some((0..BITS).fold(*base, |power, _| power.doubled())));
        let mut multiples = Vec::with_capacity(Self::DIGITS * Self::MULTIPLES);
        for base in Sum::to_affine(&bases.take(Self::DIGITS).collect::<Vec<_>>()) {
            let base = base.term();
            let sums = iter::successors(Some(Sum::NEUTRAL.plus(&base)), |sum| Some(sum.plus(&base)));
            multiples.extend(sums.take(Self::MULTIPLES));
        }
        Self(Sum::to_affine(&multiples).into_boxed_slice())
    }

    /// What is to be added for `scalar` times the point.
    fn terms(&self, scalar: &Scalar) -> impl Iterator<Item = Term<'_>> {
        let multiples = self.0.chunks_exact(Self::MULTIPLES).zip(digits::<BITS>(scalar));
        multiples.filter(|(_, digit)| *digit != 0).map(|(multiples, digit)| Term {
            point: &multiples[usize::from(digit.unsigned_abs()) - 1],
            opposite: digit < 0,
        })
    }
}

/// The scalar in base 2^`BITS`, at most 2^8: the lowest digit first, each with a sign and at most half the base.
fn digits<const BITS: usize>(scalar: &Scalar) -> impl Iterator<Item = i16> {
    let bytes = scalar.as_bytes();
    let mut carry = 0;
    (0..digits_of(BITS)).map(move |digit| {
        let bit = digit * BITS;
        let pair = [bytes[bit / 8], bytes.get(bit / 8 + 1).copied().unwrap_or(0)];
        let bits = (u16::from_le_bytes(pair) >> (bit % 8)) & ((1 << BITS) - 1);
        let digit = bits.cast_signed() + carry;
        carry = i16::from(digit > 1 << (BITS - 1));
        digit - (carry << BITS)
    })
}

/// Bits of a digit of what a key is multiplied with: a table of 296 KiB.
const KEY_BITS: usize = 7;
/// Bits of a digit of what the base point is multiplied with: a table of 512 KiB, one in the process.
const BASE_BITS: usize = 8;

/// Multiples of a key, negated: shared by all that check its signatures, and one of those that there may be.
struct Table {
    id: EntityId,
    multiples: Multiples<KEY_BITS>,
}

/// The tables that are in use.
static TABLES: Mutex<BTreeMap<EntityId, Weak<Table>>> = Mutex::new(BTreeMap::new());

impl Table {
    fn new(id: EntityId, minus: &EdwardsPoint) -> Option<Arc<Self>> {
        Some(Arc::new(Self { id, multiples: Multiples::of(&Affine::from_point(minus)?) }))
    }

    /// The table of a key, made if there is none; nothing if there are too many, or if another is being made: nobody waits for that.
    fn of(id: EntityId, minus: &EdwardsPoint) -> Option<Arc<Self>> {
        let mut tables = match TABLES.try_lock() {
            Ok(tables) => tables,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        if let Some(table) = tables.get(&id).and_then(Weak::upgrade) {
            return Some(table);
        }
        // One that is about to be removed still counts.
        if tables.len() >= TABLES_MAX && !tables.contains_key(&id) {
            return None;
        }
        let table = Self::new(id, minus)?;
        tables.insert(id, Arc::downgrade(&table));
        Some(table)
    }

    /// s·B + h times the point.
    fn double_mul(&self, h: &Scalar, s: &Scalar) -> Sum {
        static BASE: LazyLock<Multiples<BASE_BITS>> = LazyLock::new(|| {
            Multiples::of(&Affine::from_point(&ED25519_BASEPOINT_POINT).expect("the base point is on the curve"))
        });
        let mut terms = Vec::with_capacity(digits_of(KEY_BITS) + digits_of(BASE_BITS));
        terms.extend(BASE.terms(s).chain(self.multiples.terms(h)));
        Sum::of(&terms)
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        let mut tables = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
        // Another may have been made meanwhile.
        if tables.get(&self.id).is_some_and(|table| table.strong_count() == 0) {
            tables.remove(&self.id);
        }
    }
}

/// The points whose order is at most 8.
static SMALL_ORDER: LazyLock<[CompressedEdwardsY; 8]> = LazyLock::new(|| EIGHT_TORSION.map(|point| point.compress()));

/// What checks signatures of one entity: its id for a few, a [`PreparedKey`] for many.
pub trait VerifySignature {
    /// Whose signatures.
    fn entity(&self) -> EntityId;

    /// As [`EntityId::verify`].
    ///
    /// # Errors
    /// [`BadSignature`] for everything that is not this key's signature of exactly these bytes.
    fn verify_signature(&self, message: &[u8], signature: &[u8; 64]) -> Result<(), BadSignature>;
}

impl VerifySignature for EntityId {
    fn entity(&self) -> EntityId {
        *self
    }

    fn verify_signature(&self, message: &[u8], signature: &[u8; 64]) -> Result<(), BadSignature> {
        self.verify(message, signature)
    }
}

/// An entity's key, prepared for checking many signatures: it accepts exactly what [`EntityId::verify`] accepts.
///
/// After 64 good signatures it has multiples of the key (296 KiB, shared by all that are prepared of one key) and checks in a third of
/// the time: some 10 µs for 30. Making them takes 0.7 ms, for the first key of a process 2 ms, since the base point has multiples
/// as well. At most 64 keys of a process have them; others check without, until there is room.
pub struct PreparedKey {
    id: EntityId,
    /// The point, negated; nothing if the bytes are no key, or one of small order.
    minus: Option<EdwardsPoint>,
    /// Signatures that were good, up to [`TABLE_AFTER`].
    good: AtomicU32,
    /// Multiples of `minus`, once there is reason and room for them.
    table: OnceLock<Arc<Table>>,
}

impl PreparedKey {
    /// Prepares the key of an entity. Whether it is a valid key shows when a signature is checked.
    #[must_use]
    pub fn new(id: EntityId) -> Self {
        let point = CompressedEdwardsY(*id.as_bytes()).decompress().filter(|point| !point.is_small_order());
        Self { id, minus: point.map(|point| -point), good: AtomicU32::new(0), table: OnceLock::new() }
    }

    /// s·B − h·A (RFC 8032 §5.1.7), which is R if the signature is good. All of it is public.
    fn expected(&self, minus: &EdwardsPoint, h: &Scalar, s: &Scalar) -> CompressedEdwardsY {
        match self.table(minus) {
            Some(table) => table.double_mul(h, s).compress(),
            None => EdwardsPoint::vartime_double_scalar_mul_basepoint(h, minus, s).compress(),
        }
    }

    fn table(&self, minus: &EdwardsPoint) -> Option<&Table> {
        if self.table.get().is_none() && self.good.load(Ordering::Relaxed) >= TABLE_AFTER {
            // Another time, if not now.
            if let Some(table) = Table::of(self.id, minus) {
                // If another thread was first, it has the same one.
                let _ = self.table.set(table);
            }
        }
        self.table.get().map(|table| &**table)
    }
}

impl VerifySignature for PreparedKey {
    fn entity(&self) -> EntityId {
        self.id
    }

    fn verify_signature(&self, message: &[u8], signature: &[u8; 64]) -> Result<(), BadSignature> {
        let minus = self.minus.as_ref().ok_or(BadSignature)?;
        let (r, s) = signature.split_at(32);
        let s = <[u8; 32]>::try_from(s).ok().and_then(|s| Scalar::from_canonical_bytes(s).into());
        let s: Scalar = s.ok_or(BadSignature)?;
        let hash = Sha512::new().chain_update(r).chain_update(self.id.as_bytes()).chain_update(message);
        let h = Scalar::from_bytes_mod_order_wide(&hash.finalize().into());
        let expected = self.expected(minus, &h, &s);
        // Equal bytes: R is a point in its one proper encoding, so what holds of the one holds of the other.
        if expected.as_bytes() != r || SMALL_ORDER.contains(&expected) {
            return Err(BadSignature);
        }
        if self.good.load(Ordering::Relaxed) < TABLE_AFTER {
            self.good.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl fmt::Debug for PreparedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreparedKey").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use curve25519_dalek::constants::ED25519_BASEPOINT_TABLE;

    use super::*;
    use crate::{EntityKey, Signer as _};

    /// Held by tests that count tables, which all tests of a process share.
    static COUNTING: Mutex<()> = Mutex::new(());

    /// Asks the prepared key before and behind its table; both must say what the strict check says.
    fn agree(id: EntityId, message: &[u8], signature: &[u8; 64]) -> bool {
        let strict = id.verify(message, signature);
        let prepared = PreparedKey::new(id);
        assert_eq!(prepared.verify_signature(message, signature), strict, "without a table");
        if let Some(minus) = &prepared.minus {
            assert!(prepared.table.set(Table::new(id, minus).expect("a point of the library's")).is_ok());
        }
        assert_eq!(prepared.verify_signature(message, signature), strict, "with a table");
        strict.is_ok()
    }

    #[test]
    fn good_signatures_pass_and_each_flipped_bit_fails() {
        let key = EntityKey::from_secret(&[3; 32]);
        let signature = key.sign(b"a message").expect("a key in memory signs");
        assert!(agree(key.id(), b"a message", &signature));
        assert!(!agree(key.id(), b"a messagf", &signature));
        for bit in 0..512 {
            let mut bad = signature;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!agree(key.id(), b"a message", &bad), "bit {bit}");
        }
        for bit in 0..256 {
            let mut id = *key.id().as_bytes();
            id[bit / 8] ^= 1 << (bit % 8);
            assert!(!agree(EntityId::from_bytes(id), b"a message", &signature), "key bit {bit}");
        }
    }

    #[test]
    fn multiples_are_those_of_the_library_at_every_edge_of_a_digit() {
        let point = EdwardsPoint::mul_base(&Scalar::from(7_u64)) + EIGHT_TORSION[1];
        let affine = Affine::from_point(&point).expect("a point of the library's");
        let (of_key, of_base) = (Multiples::<KEY_BITS>::of(&affine), Multiples::<BASE_BITS>::of(&affine));
        let mut scalars = vec![Scalar::ZERO, Scalar::ONE, -Scalar::ONE, -Scalar::from(2_u64)];
        for bit in 0..252 {
            let mut bytes = [0; 32];
            bytes[bit / 8] = 1 << (bit % 8);
            let power = Scalar::from_bytes_mod_order(bytes);
            scalars.extend([power, power - Scalar::ONE, power + Scalar::ONE, -power]);
        }
        for byte in 0..=255 {
            scalars.push(Scalar::from_bytes_mod_order([byte; 32]));
        }
        for scalar in scalars {
            let (by_key, by_base): (Vec<_>, Vec<_>) =
                (of_key.terms(&scalar).collect(), of_base.terms(&scalar).collect());
            let expected = (point * scalar).compress();
            assert_eq!(Sum::of(&by_key).compress(), expected, "{scalar:?}");
            assert_eq!(Sum::of(&by_base).compress(), expected, "{scalar:?}");
        }
    }

    #[test]
    fn sums_of_two_multiples_are_those_of_the_library() {
        let mut scalar = Scalar::from(5_u64);
        let mut next = || {
            scalar = Scalar::hash_from_bytes::<Sha512>(scalar.as_bytes());
            scalar
        };
        for torsion in EIGHT_TORSION {
            let point = EdwardsPoint::mul_base(&next()) + torsion;
            let table = Table::new(EntityId::from_bytes(point.compress().0), &point).expect("a point of the library's");
            for _ in 0..200 {
                let (h, s) = (next(), next());
                let expected = EdwardsPoint::vartime_double_scalar_mul_basepoint(&h, &point, &s);
                assert_eq!(table.double_mul(&h, &s).compress(), expected.compress(), "{h:?} {s:?}");
            }
        }
    }

    #[test]
    fn table_is_made_after_some_signatures_and_changes_nothing() {
        let _counting = COUNTING.lock();
        let key = EntityKey::from_secret(&[4; 32]);
        let prepared = PreparedKey::new(key.id());
        for _ in 0..2 * TABLE_AFTER {
            assert_eq!(prepared.verify_signature(b"another", &[0; 64]), Err(BadSignature));
        }
        assert_eq!(prepared.good.load(Ordering::Relaxed), 0, "what is forged buys no table");
        for n in 0..2 * TABLE_AFTER {
            let message = n.to_le_bytes();
            let signature = key.sign(&message).expect("a key in memory signs");
            assert_eq!(prepared.verify_signature(&message, &signature), Ok(()));
            assert_eq!(prepared.verify_signature(b"another", &signature), Err(BadSignature));
        }
        assert!(prepared.table.get().is_some());
        let other = PreparedKey::new(key.id());
        other.good.store(TABLE_AFTER, Ordering::Relaxed);
        assert_eq!(other.verify_signature(b"another", &[0; 64]), Err(BadSignature));
        let (a, b) = (prepared.table.get().expect("made"), other.table.get().expect("made"));
        assert!(Arc::ptr_eq(a, b), "one table for one key");
    }

    #[test]
    fn tables_are_bounded_in_number_and_places_come_back() {
        let _counting = COUNTING.lock();
        let busy = |n: usize| {
            let key = EntityKey::from_secret(&[u8::try_from(n).expect("a small number"); 32]);
            let signature = key.sign(b"m").expect("a key in memory signs");
            let prepared = PreparedKey::new(key.id());
            prepared.good.store(TABLE_AFTER, Ordering::Relaxed);
            assert_eq!(prepared.verify_signature(b"m", &signature), Ok(()), "with a table or without");
            (prepared, signature)
        };
        let mut many: Vec<(PreparedKey, [u8; 64])> = (100..120 + TABLES_MAX).map(busy).collect();
        let tables = many.iter().filter(|(prepared, _)| prepared.table.get().is_some()).count();
        // Other tests of this process may hold a few.
        assert!(tables > TABLES_MAX / 2 && tables <= TABLES_MAX, "{tables}");
        let (refused, signature) = many.pop().expect("many");
        assert!(refused.table.get().is_none());
        drop(many);
        assert_eq!(refused.verify_signature(b"m", &signature), Ok(()));
        assert!(refused.table.get().is_some(), "it asks again");
    }

    /// What `s` would have to be so that R = s·B − h·A for the A and R of these bytes.
    fn forge(a: &[u8; 32], r: &[u8; 32], r_secret: &Scalar, a_secret: &Scalar, message: &[u8]) -> [u8; 64] {
        let hash = Sha512::new().chain_update(r).chain_update(a).chain_update(message);
        let h = Scalar::from_bytes_mod_order_wide(&hash.finalize().into());
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(r);
        signature[32..].copy_from_slice((r_secret + h * a_secret).as_bytes());
        signature
    }

    /// R is hashed, so whoever changes it in a good signature changes all. Here the hash is that of the changed R: the comparison alone
    /// can tell.
    #[test]
    fn each_bit_of_r_is_compared() {
        let (a_secret, r_secret) = (Scalar::from(123_456_789_u64), Scalar::from(987_654_321_u64));
        let a = (ED25519_BASEPOINT_TABLE * &a_secret).compress().0;
        let mut r = (ED25519_BASEPOINT_TABLE * &r_secret).compress().0;
        assert!(agree(EntityId::from_bytes(a), b"m", &forge(&a, &r, &r_secret, &a_secret, b"m")));
        for bit in 0..256 {
            r[bit / 8] ^= 1 << (bit % 8);
            assert!(!agree(EntityId::from_bytes(a), b"m", &forge(&a, &r, &r_secret, &a_secret, b"m")), "bit {bit}");
            r[bit / 8] ^= 1 << (bit % 8);
        }
    }

    /// Keys and points R with parts of small order, alone and added to proper ones: where lenient checks differ.
    #[test]
    fn points_of_small_and_mixed_order_are_judged_as_the_strict_check_does() {
        let (a_secret, r_secret) = (Scalar::from(123_456_789_u64), Scalar::from(987_654_321_u64));
        let mut accepted = 0;
        for (a_part, a_secret) in
            [(EdwardsPoint::default(), Scalar::ZERO), (ED25519_BASEPOINT_TABLE * &a_secret, a_secret)]
        {
            for (r_part, r_secret) in
                [(EdwardsPoint::default(), Scalar::ZERO), (ED25519_BASEPOINT_TABLE * &r_secret, r_secret)]
            {
                for (a_torsion, r_torsion) in
                    EIGHT_TORSION.iter().flat_map(|a| EIGHT_TORSION.iter().map(move |r| (a, r)))
                {
                    let a = (a_part + a_torsion).compress().0;
                    let r = (r_part + r_torsion).compress().0;
                    for message in 0..8_u8 {
                        let signature = forge(&a, &r, &r_secret, &a_secret, &[message]);
                        accepted += u32::from(agree(EntityId::from_bytes(a), &[message], &signature));
                    }
                }
            }
        }
        // Of keys of mixed order the strict check takes some signatures: those whose parts of small order cancel.
        assert!(accepted > 8, "the test reaches what it is about: {accepted}");
    }

    #[test]
    fn encodings_that_are_not_canonical_are_judged_as_the_strict_check_does() {
        // p, p + 1 and 2^255 - 1 as y, with and without the sign: encodings of points that have another one.
        let mut noncanonical = Vec::new();
        for low in 0xed..=0xff_u8 {
            let mut bytes = [0xff; 32];
            (bytes[0], bytes[31]) = (low, 0x7f);
            noncanonical.push(bytes);
            bytes[31] = 0xff;
            noncanonical.push(bytes);
        }
        let key = EntityKey::from_secret(&[5; 32]);
        let signature = key.sign(b"m").expect("a key in memory signs");
        for bytes in noncanonical {
            assert!(!agree(EntityId::from_bytes(bytes), b"m", &signature));
            let mut bad = signature;
            bad[..32].copy_from_slice(&bytes);
            assert!(!agree(key.id(), b"m", &bad));
            let forged = forge(&bytes, &bytes, &Scalar::ZERO, &Scalar::ZERO, b"m");
            agree(EntityId::from_bytes(bytes), b"m", &forged);
        }
        // s + L: the same number, another signature.
        let mut bad = signature;
        let order = [
            0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10_u8,
        ];
        let mut carry = 0_u16;
        for (byte, add) in bad[32..].iter_mut().zip(order) {
            let sum = u16::from(*byte) + u16::from(add) + carry;
            (*byte, carry) = (sum.to_le_bytes()[0], sum >> 8);
        }
        assert!(!agree(key.id(), b"m", &bad));
    }
}
