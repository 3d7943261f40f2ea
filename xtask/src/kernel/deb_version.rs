//! The order of Debian package versions, as deb-version(7) has it.

use std::cmp::Ordering;

/// Compares two package versions (`[epoch:]upstream[-revision]`).
pub(crate) fn compare(left: &str, right: &str) -> Ordering {
    let (left_epoch, left) = epoch(left);
    let (right_epoch, right) = epoch(right);
    let (left_upstream, left_revision) = left.rsplit_once('-').unwrap_or((left, ""));
    let (right_upstream, right_revision) = right.rsplit_once('-').unwrap_or((right, ""));
    left_epoch
        .cmp(&right_epoch)
        .then_with(|| part(left_upstream, right_upstream))
        .then_with(|| part(left_revision, right_revision))
}

fn epoch(version: &str) -> (u64, &str) {
    match version.split_once(':') {
        Some((epoch, rest)) => (epoch.parse().unwrap_or_default(), rest),
        None => (0, version),
    }
}

/// Compares one part: runs of non-digits and of digits in turn, `~` before the end, letters before the rest.
fn part(left: &str, right: &str) -> Ordering {
    let (mut left, mut right) = (left.as_bytes(), right.as_bytes());
    while !left.is_empty() || !right.is_empty() {
        loop {
            let weights = (weight(left.first()), weight(right.first()));
            if weights.0 != weights.1 {
                return weights.0.cmp(&weights.1);
            }
            if weights.0 == 0 {
                break;
            }
            (left, right) = (&left[1..], &right[1..]);
        }
        let (left_digits, right_digits) = (digits(left), digits(right));
        let order = number(left_digits).cmp(&number(right_digits));
        if order != Ordering::Equal {
            return order;
        }
        (left, right) = (&left[left_digits.len()..], &right[right_digits.len()..]);
    }
    Ordering::Equal
}

/// The weight of a character outside a number; a digit and the end weigh nothing.
fn weight(byte: Option<&u8>) -> i32 {
    match byte {
        None => 0,
        Some(byte) if byte.is_ascii_digit() => 0,
        Some(b'~') => -1,
        Some(byte) if byte.is_ascii_alphabetic() => i32::from(*byte),
        Some(byte) => i32::from(*byte) + 256,
    }
}

fn digits(text: &[u8]) -> &[u8] {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    &text[..end]
}

/// Orders like the number: fewer digits first, leading zeros dropped.
fn number(digits: &[u8]) -> (usize, &[u8]) {
    let start = digits.iter().position(|&byte| byte != b'0').unwrap_or(digits.len());
    (digits.len() - start, &digits[start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_as_dpkg_does() {
        for (lower, higher) in [
            ("6.12.90-2", "6.12.118-1"),
            ("7.2~rc5-1~exp1", "7.2-1~exp1"),
            ("6.18.15-1~bpo13+1", "6.18.15-1"),
            ("6.18.15-1~bpo13+1", "6.18.15-1~bpo13+2"),
            ("5.10.262-1", "1:1.0"),
            ("6.1.9-1", "6.1.192-2"),
            ("1.0", "1.0a"),
            ("1.0a", "1.0+b"),
            ("1.009", "1.10"),
        ] {
            assert_eq!(compare(lower, higher), Ordering::Less, "{lower} < {higher}");
            assert_eq!(compare(higher, lower), Ordering::Greater, "{higher} > {lower}");
        }
        assert_eq!(compare("1.00-1", "1.0-1"), Ordering::Equal);
    }
}
