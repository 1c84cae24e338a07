//! Unmasking (RFC 6455 section 5.3), eight bytes at a time.

/// XORs `bytes` with `mask` repeated. `mask[0]` belongs to `bytes[0]`: a caller that continues inside a frame rotates
/// the mask with [`rotated`] first.
pub(super) fn apply(bytes: &mut [u8], mask: [u8; 4]) {
    // Native byte order on both sides keeps every mask byte at its place, whatever the machine. The loop over fixed
    // arrays is one the compiler turns into vector instructions.
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, tail) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

/// The mask as it stands after `consumed` bytes of the frame.
pub(super) fn rotated(mask: [u8; 4], consumed: usize) -> [u8; 4] {
    u32::from_le_bytes(mask)
        .rotate_right(8 * (consumed % 4) as u32)
        .to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_and_split_matches_the_definition() {
        let mask = [0x37, 0xfa, 0x21, 0x3d];
        for len in 0..70usize {
            let plain: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
            let expected: Vec<u8> = plain.iter().enumerate().map(|(i, b)| b ^ mask[i % 4]).collect();
            for split in 0..=len {
                let mut bytes = plain.clone();
                let (head, tail) = bytes.split_at_mut(split);
                apply(head, mask);
                apply(tail, rotated(mask, split));
                assert_eq!(bytes, expected, "length {len}, split at {split}");
            }
        }
    }
}
