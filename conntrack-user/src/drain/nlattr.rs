//! Netlink attributes, walked in place.

use bytes::Buf;

/// Length of an attribute's header.
const HEADER: usize = 4;
/// Bits of the type that are the type: the two above say "nested" and "network byte order".
const TYPE_MASK: u16 = 0x3fff;

/// Iterates over the attributes in `bytes`: (type, payload). Ends early at an attribute whose length is
/// impossible, so a caller that needs an attribute finds it missing.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// The attributes that fill `bytes`.
    #[inline]
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The payload of the first attribute of this type.
    #[inline]
    #[must_use]
    pub fn find(self, kind: u16) -> Option<&'a [u8]> {
        for (found, payload) in self {
            if found == kind {
                return Some(payload);
            }
        }
        None
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        // Attribute headers are in host order, whatever their payload is in.
        let mut header = self.rest.get(..HEADER)?;
        let length = usize::from(header.get_u16_ne());
        let kind = header.get_u16_ne() & TYPE_MASK;
        let payload = self.rest.get(HEADER..length)?;
        // The last attribute's padding may be missing.
        self.rest = self.rest.get(align(length)..).unwrap_or_default();
        Some((kind, payload))
    }
}

/// Rounds up to netlink's alignment.
#[inline]
pub(super) const fn align(length: usize) -> usize {
    (length + 3) & !3
}

/// A number of 16 bits in network order.
#[inline]
#[must_use]
pub fn be16(mut payload: &[u8]) -> Option<u16> {
    payload.try_get_u16().ok()
}

/// A number of 32 bits in network order.
#[inline]
#[must_use]
pub fn be32(mut payload: &[u8]) -> Option<u32> {
    payload.try_get_u32().ok()
}

/// A number of 32 bits in host order.
#[inline]
#[must_use]
pub fn ne32(mut payload: &[u8]) -> Option<u32> {
    payload.try_get_u32_ne().ok()
}

/// A string, up to its first NUL; None when it is not UTF-8.
#[must_use]
pub fn string(payload: &[u8]) -> Option<&str> {
    let text = payload.split(|&byte| byte == 0).next()?;
    std::str::from_utf8(text).ok()
}

#[cfg(test)]
pub(super) mod build {
    //! Writes attributes, for tests.

    /// Appends one attribute, padded.
    pub(in crate::drain) fn put(out: &mut Vec<u8>, kind: u16, payload: &[u8]) {
        let length = u16::try_from(payload.len() + super::HEADER).unwrap();
        out.extend_from_slice(&length.to_ne_bytes());
        out.extend_from_slice(&kind.to_ne_bytes());
        out.extend_from_slice(payload);
        out.resize(super::align(out.len()), 0);
    }

    /// Appends one attribute that holds others.
    pub(in crate::drain) fn nest(out: &mut Vec<u8>, kind: u16, inner: impl FnOnce(&mut Vec<u8>)) {
        let mut payload = Vec::new();
        inner(&mut payload);
        put(out, kind | 0x8000, &payload);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_padded_and_nested() {
        let mut bytes = Vec::new();
        build::put(&mut bytes, 1, &[7]);
        build::nest(&mut bytes, 2, |inner| build::put(inner, 9, &0xdead_beef_u32.to_be_bytes()));
        let all: Vec<_> = Attributes::new(&bytes).collect();
        assert_eq!(all.len(), 2);
        assert_eq!(all[0], (1, &[7][..]));
        let nested = Attributes::new(&bytes).find(2).unwrap();
        assert_eq!(Attributes::new(nested).find(9).and_then(be32), Some(0xdead_beef));
        assert_eq!(Attributes::new(&bytes).find(3), None);
    }

    #[test]
    fn ends_at_an_impossible_length() {
        for length in [0_u16, 3, 200] {
            let mut bytes = length.to_ne_bytes().to_vec();
            bytes.extend_from_slice(&[1, 0, 1, 2, 3, 4]);
            assert_eq!(Attributes::new(&bytes).count(), 0, "length {length}");
        }
    }

    #[test]
    fn short_numbers_are_none() {
        assert_eq!(be16(&[1]), None);
        assert_eq!(be32(&[1, 2, 3]), None);
        assert_eq!(ne32(&[]), None);
        assert_eq!(be16(&[1, 2]), Some(0x0102));
        assert_eq!(string(b"eth0\0junk"), Some("eth0"));
        assert_eq!(string(&[0xff]), None);
    }
}
