//! What a pod uid looks like, in the spellings that cgroup paths and log directories use.

/// Is this a pod uid as the API spells it: a UUID with dashes, or (static pods) 32 hexadecimal digits?
#[must_use]
pub fn is_pod_uid(text: &[u8]) -> bool {
    is_uuid(text, b'-') || is_static_uid(text)
}

/// The uid spelled in a systemd slice name, where a dash would mean a level of the hierarchy and is written
/// `_`. None where it is no uid.
#[must_use]
pub fn from_slice_spelling(text: &[u8]) -> Option<String> {
    if !is_uuid(text, b'_') && !is_static_uid(text) {
        return None;
    }
    Some(text.iter().map(|&byte| if byte == b'_' { '-' } else { char::from(byte) }).collect())
}

/// The uid spelled as the API does. None where it is no uid.
#[must_use]
pub fn from_api_spelling(text: &[u8]) -> Option<String> {
    if !is_pod_uid(text) {
        return None;
    }
    Some(text.iter().copied().map(char::from).collect())
}

fn is_uuid(text: &[u8], separator: u8) -> bool {
    text.len() == 36
        && text.iter().enumerate().all(|(at, &byte)| match at {
            8 | 13 | 18 | 23 => byte == separator,
            _ => byte.is_ascii_hexdigit(),
        })
}

/// The kubelet names a static pod by the MD5 of its manifest.
fn is_static_uid(text: &[u8]) -> bool {
    text.len() == 32 && text.iter().all(u8::is_ascii_hexdigit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings() {
        let api = "0a1b2c3d-0000-4000-8000-1234567890ab";
        assert!(is_pod_uid(api.as_bytes()));
        assert_eq!(from_slice_spelling(b"0a1b2c3d_0000_4000_8000_1234567890ab").as_deref(), Some(api));
        let fixed = "0123456789abcdef0123456789abcdef";
        assert_eq!(from_slice_spelling(fixed.as_bytes()).as_deref(), Some(fixed));
        assert_eq!(from_api_spelling(fixed.as_bytes()).as_deref(), Some(fixed));
    }

    #[test]
    fn what_is_no_uid() {
        for text in [
            "",
            "0a1b2c3d-0000-4000-8000-1234567890a",
            "0a1b2c3d-0000-4000-8000-1234567890abc",
            "0a1b2c3d_0000_4000_8000_1234567890ab",
            "0a1b2c3d-0000-4000-80001-234567890ab",
            "0a1b2c3d-0000-4000-8000-1234567890xy",
            "0123456789abcdef0123456789abcdeg",
        ] {
            assert!(!is_pod_uid(text.as_bytes()), "{text}");
        }
        assert_eq!(from_slice_spelling(b"0a1b2c3d-0000-4000-8000-1234567890ab"), None);
    }
}
