//! The static binding: whose Noise key it is.

use net_transport::{BINDING_LEN, NodeKeys, Seed, StaticBinding};

/// Parses the input; and flips one bit of a genuine binding, both made from the input.
pub fn run(data: &[u8]) -> bool {
    if let Some((seed, rest)) = data.split_first_chunk::<32>()
        && let Some(at) = rest.first_chunk::<2>()
    {
        let genuine = NodeKeys::from_seed(&Seed::new(*seed)).binding().to_bytes();
        assert!(StaticBinding::parse(&genuine).is_ok(), "a genuine binding is refused");
        let bit = usize::from(u16::from_le_bytes(*at)) % (BINDING_LEN * 8);
        let mut forged = genuine;
        forged[bit / 8] ^= 1 << (bit % 8);
        assert!(StaticBinding::parse(&forged).is_err(), "bit {bit} of a binding is not signed");
    }
    let Ok(binding) = StaticBinding::parse(data) else {
        return false;
    };
    assert_eq!(binding.to_bytes()[..], *data, "a parsed binding differs from its bytes");
    assert_eq!(binding.node().as_bytes()[..], data[..32], "the node is not where the format puts it");
    true
}

/// Bindings of two nodes.
pub fn seeds() -> Vec<Vec<u8>> {
    [[1; 32], [0xa5; 32]].map(|seed| NodeKeys::from_seed(&Seed::new(seed)).binding().to_bytes().to_vec()).to_vec()
}
