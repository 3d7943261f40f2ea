//! Numbers and names for a narrow column.

use ratatui::text::Span;

use crate::attribute::owner::Owner;

/// What stands for what is not known.
pub const UNKNOWN: &str = "-";

/// A count in at most 8 characters, whole as long as that fits.
#[must_use]
pub fn count(n: i64) -> String {
    const UNITS: [(f64, &str); 5] = [(1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")];
    match n.unsigned_abs() {
        0..=9_999_999 => n.to_string(),
        size => {
            let unit = UNITS.iter().find(|(unit, _)| size as f64 >= *unit);
            unit.map_or_else(|| n.to_string(), |(unit, name)| format!("{:.1}{name}", n as f64 / unit))
        }
    }
}

/// With a comma at each thousand.
#[must_use]
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// So many a second, in at most 6 characters.
#[must_use]
pub fn rate(n: f64) -> String {
    let size = n.abs();
    if !n.is_finite() {
        UNKNOWN.to_owned()
    } else if size < 0.05 {
        "0".to_owned()
    } else if size < 9.95 {
        format!("{n:.1}")
    } else if size < 99_999.5 {
        format!("{n:.0}")
    } else if size < 9_999_500.0 {
        format!("{:.0}k", n / 1e3)
    } else {
        format!("{:.0}M", n / 1e6)
    }
}

/// A span of time in at most 9 characters.
#[must_use]
pub fn span(seconds: f64) -> String {
    let s = seconds.max(0.0).round() as u64;
    match s {
        0..=59 => format!("{s} s"),
        60..=3599 => format!("{} m {:02} s", s / 60, s % 60),
        _ => format!("{} h {:02} m", s / 3600, s % 3600 / 60),
    }
}

/// An owner's name, nothing in it that a terminal would obey.
#[must_use]
pub fn name(owner: &Owner) -> String {
    match owner {
        Owner::Pod { namespace, pod, uid } if namespace.is_empty() => {
            format!("pod {}", escaped(if pod.is_empty() { uid } else { pod }))
        }
        Owner::Pod { namespace, pod, .. } => format!("{}/{}", escaped(namespace), escaped(pod)),
        Owner::Cgroup { cgroup } if cgroup.is_empty() => "/".to_owned(),
        Owner::Cgroup { cgroup } => escaped(cgroup),
        Owner::Host => "host".to_owned(),
        Owner::External => "external".to_owned(),
        Owner::Unknown => "unknown".to_owned(),
    }
}

/// Letters, digits and printable ASCII stay; control characters, invisible ones and those that turn the direction of
/// writing are spelt out.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        let right_to_left =
            matches!(c, '\u{590}'..='\u{8ff}' | '\u{fb1d}'..='\u{fdff}' | '\u{fe70}'..='\u{fefc}');
        if c == '\\' {
            out.push_str("\\\\");
        } else if c.is_ascii_graphic() || c == ' ' || (!c.is_ascii() && c.is_alphanumeric() && !right_to_left)
        {
            out.push(c);
        } else {
            out.extend(c.escape_default());
        }
    }
    out
}

/// The text in at most so many columns: its middle is left out, since what tells names apart is at their ends.
#[must_use]
pub fn fitted(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let room = columns.saturating_sub(1);
    let head = taken(text.chars(), room / 2);
    let tail: String = taken(text.chars().rev(), room - width(&head)).chars().rev().collect();
    if columns == 0 { String::new() } else { format!("{head}…{tail}") }
}

fn taken(chars: impl Iterator<Item = char>, columns: usize) -> String {
    let mut out = String::new();
    let mut used = 0;
    for c in chars {
        used += width(c.encode_utf8(&mut [0; 4]));
        if used > columns {
            break;
        }
        out.push(c);
    }
    out
}

/// Columns of a terminal that it takes.
#[must_use]
pub fn width(text: &str) -> usize {
    Span::raw(text).width()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_fit_their_columns() {
        let counts =
            [(0, "0"), (-5, "-5"), (9_999_999, "9999999"), (12_345_678, "12.3M"), (i64::MAX, "9.2E")];
        for (n, text) in counts {
            assert_eq!(count(n), text);
        }
        let rates =
            [(0.01, "0"), (0.25, "0.2"), (-3.26, "-3.3"), (12.4, "12"), (123_456.0, "123k"), (2e9, "2000M")];
        for (n, text) in rates {
            assert_eq!(rate(n), text);
        }
        assert_eq!([rate(f64::NAN), rate(f64::INFINITY)], [UNKNOWN, UNKNOWN]);
        assert_eq!([grouped(7), grouped(1234), grouped(262_144_000)], ["7", "1,234", "262,144,000"]);
        assert_eq!(
            [span(-1.0), span(59.4), span(61.0), span(3725.0)],
            ["0 s", "59 s", "1 m 01 s", "1 h 02 m"]
        );
    }

    #[test]
    fn names_cannot_command_the_terminal() {
        assert_eq!(escaped("a\u{1b}[31m\n\tb\u{7f}\u{9b}"), r"a\u{1b}[31m\n\tb\u{7f}\u{9b}");
        assert_eq!(escaped("x\u{202e}y\u{200b}z\u{301}"), r"x\u{202e}y\u{200b}z\u{301}");
        assert_eq!(escaped("größe/日本\\"), "größe/日本\\\\");
        assert_eq!(escaped("\u{5d0}"), r"\u{5d0}", "it would turn the line around");
        let pod = |namespace: &str, pod: &str| Owner::Pod {
            namespace: namespace.into(),
            pod: pod.into(),
            uid: "1-2".into(),
        };
        assert_eq!(name(&pod("shop", "web\n-0")), r"shop/web\n-0");
        assert_eq!([name(&pod("", "")), name(&pod("", "web"))], ["pod 1-2", "pod web"]);
    }

    #[test]
    fn long_names_keep_both_ends() {
        assert_eq!(fitted("system.slice/containerd.service", 15), "system.…service");
        assert_eq!(fitted("abc", 3), "abc");
        for columns in 0..12 {
            for text in ["日本語日本語日本語", "plain and long enough", ""] {
                assert!(width(&fitted(text, columns)) <= columns, "{text} in {columns}");
            }
        }
    }
}
