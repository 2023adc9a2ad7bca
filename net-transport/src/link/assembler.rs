//! From the chunks of a lane's stream to whole frames: a value.

use bytes::BytesMut;

use crate::{HEADER_LEN, Header, HeaderError, buffers};

/// Builds frames, each in an allocation of its own; every byte is copied once.
#[derive(Debug)]
pub(crate) struct Assembler {
    header: [u8; HEADER_LEN],
    state: State,
}

#[derive(Debug)]
enum State {
    /// So many bytes of the header are there.
    Header(usize),
    /// The frame is wanted; so many bytes are missing.
    Body(BytesMut, usize),
    /// The frame is not wanted; so many bytes of it are still to come.
    Skip(usize),
}

impl Assembler {
    pub(crate) fn new() -> Self {
        Self { header: [0; HEADER_LEN], state: State::Header(0) }
    }

    /// Takes a chunk; appends the frames that are complete with it to `out`, and returns how many frames have ended in
    /// it, wanted or not. `wanted` is asked once for each frame, before memory is taken for it.
    ///
    /// # Errors
    /// A malformed header: from there on nobody knows where frames begin.
    pub(crate) fn feed(
        &mut self,
        mut chunk: &[u8],
        mut wanted: impl FnMut(&Header) -> bool,
        out: &mut Vec<BytesMut>,
    ) -> Result<u64, HeaderError> {
        let mut ended = 0;
        while !chunk.is_empty() {
            match &mut self.state {
                State::Header(filled) => {
                    let n = chunk.len().min(HEADER_LEN - *filled);
                    self.header[*filled..*filled + n].copy_from_slice(&chunk[..n]);
                    chunk = &chunk[n..];
                    *filled += n;
                    if *filled < HEADER_LEN {
                        break;
                    }
                    let header = Header::parse(&self.header)?;
                    let len = header.payload_len();
                    self.state = if wanted(header) {
                        let mut bytes = buffers::take(HEADER_LEN + len);
                        bytes.extend_from_slice(&self.header);
                        State::Body(bytes, len)
                    } else {
                        State::Skip(len)
                    };
                }
                State::Body(bytes, missing) => {
                    let n = chunk.len().min(*missing);
                    bytes.extend_from_slice(&chunk[..n]);
                    chunk = &chunk[n..];
                    *missing -= n;
                }
                State::Skip(missing) => {
                    let n = chunk.len().min(*missing);
                    chunk = &chunk[n..];
                    *missing -= n;
                }
            }
            if let State::Body(_, 0) | State::Skip(0) = self.state {
                ended += 1;
                if let State::Body(bytes, _) = std::mem::replace(&mut self.state, State::Header(0)) {
                    out.push(bytes);
                }
            }
        }
        Ok(ended)
    }

    /// Is a frame begun and not ended?
    pub(crate) fn inside_frame(&self) -> bool {
        !matches!(self.state, State::Header(0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Kind, PAYLOAD_LEN_MAX};

    fn frame(seq: u64, len: usize) -> Vec<u8> {
        let mut header = Header::new(Kind::Batch);
        header.set_seq(seq);
        header.set_payload_len(u32::try_from(len).expect("small"));
        [&header.as_bytes()[..], &vec![seq.to_le_bytes()[0]; len]].concat()
    }

    #[test]
    fn frames_have_their_size_and_start_aligned() {
        let mut assembler = Assembler::new();
        let mut out = Vec::new();
        let bytes = [frame(1, 0), frame(2, 5), frame(3, 70_000)].concat();
        assert_eq!(assembler.feed(&bytes, |_| true, &mut out), Ok(3));
        assert_eq!(out, [frame(1, 0), frame(2, 5), frame(3, 70_000)]);
        for frame in &out {
            assert!(frame.capacity() <= frame.len() + frame.len() / 8);
            assert_eq!(frame.as_ptr().align_offset(16), 0);
        }
        assert!(!assembler.inside_frame());
    }

    #[test]
    fn unwanted_frames_are_passed_over() {
        let mut assembler = Assembler::new();
        let mut out = Vec::new();
        let bytes = [frame(1, 10), frame(2, 1000), frame(3, 0), frame(4, 10)].concat();
        for chunk in bytes.chunks(7) {
            assembler.feed(chunk, |header| header.seq() % 2 == 0, &mut out).expect("proper headers");
        }
        assert_eq!(out, [frame(2, 1000), frame(4, 10)]);
    }

    #[test]
    fn malformed_header_is_an_error_wherever_it_is_cut() {
        let mut bad = frame(2, 3);
        bad[1] = 0xff;
        for cut in 1..HEADER_LEN {
            let mut assembler = Assembler::new();
            let bytes = [frame(1, 3), bad.clone()].concat();
            let mut out = Vec::new();
            let (a, b) = bytes.split_at(HEADER_LEN + 3 + cut);
            let fed = assembler.feed(a, |_| true, &mut out).and_then(|_| assembler.feed(b, |_| true, &mut out));
            assert_eq!(fed, Err(HeaderError::Reserved { offset: 1 }));
            assert_eq!(out, [frame(1, 3)]);
        }
    }

    #[test]
    fn length_beyond_the_limit_takes_no_memory() {
        let mut header = Header::new(Kind::Batch);
        header.set_payload_len(u32::MAX);
        let mut assembler = Assembler::new();
        let fed = assembler.feed(header.as_bytes(), |_| panic!("not asked"), &mut Vec::new());
        assert_eq!(fed, Err(HeaderError::TooLong { len: u32::MAX }));
        header.set_payload_len(u32::try_from(PAYLOAD_LEN_MAX).expect("fits"));
        assert_eq!(Assembler::new().feed(header.as_bytes(), |_| true, &mut Vec::new()), Ok(0));
    }

    proptest! {
        #[test]
        fn cutting_the_stream_anywhere_changes_nothing(
            lens in proptest::collection::vec(0usize..300, 1..12),
            cuts in proptest::collection::vec(1usize..200, 1..50),
        ) {
            let frames: Vec<Vec<u8>> = lens.iter().enumerate().map(|(i, len)| frame(i as u64, *len)).collect();
            let bytes = frames.concat();
            let mut assembler = Assembler::new();
            let (mut out, mut rest, mut ended) = (Vec::new(), &bytes[..], 0);
            for cut in cuts.iter().cycle() {
                let (chunk, tail) = rest.split_at((*cut).min(rest.len()));
                ended += assembler.feed(chunk, |_| true, &mut out).expect("proper headers");
                rest = tail;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(ended, frames.len() as u64);
            prop_assert_eq!(out, frames);
        }

        #[test]
        fn any_bytes_are_frames_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let mut out = Vec::new();
            let _ = Assembler::new().feed(&bytes, |_| true, &mut out);
            for frame in out {
                prop_assert_eq!(Header::parse(&frame).map(|h| h.payload_len() + HEADER_LEN), Ok(frame.len()));
            }
        }
    }
}
