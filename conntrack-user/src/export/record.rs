//! A log line as fields in order, and the two ways to print it.

use std::fmt::Write as _;

use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

/// How log lines are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// `key=value` pairs (logfmt).
    Text,
}

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Good to know.
    Info,
    /// Somebody should look.
    Warn,
    /// The program cannot do its work.
    Error,
}

impl Level {
    /// As printed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// The value of a field.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Text.
    Str(String),
    /// A count, port or inode.
    Num(u64),
    /// A real number.
    Float(f64),
    /// Yes or no.
    Bool(bool),
    /// Fields within a field; `outer.inner=` in text.
    Fields(Record),
}

impl From<&str> for Value {
    fn from(v: &str) -> Self {
        Self::Str(v.to_owned())
    }
}

impl From<String> for Value {
    fn from(v: String) -> Self {
        Self::Str(v)
    }
}

impl From<u64> for Value {
    fn from(v: u64) -> Self {
        Self::Num(v)
    }
}

impl From<u32> for Value {
    fn from(v: u32) -> Self {
        Self::Num(v.into())
    }
}

impl From<u16> for Value {
    fn from(v: u16) -> Self {
        Self::Num(v.into())
    }
}

impl From<bool> for Value {
    fn from(v: bool) -> Self {
        Self::Bool(v)
    }
}

impl From<f64> for Value {
    fn from(v: f64) -> Self {
        Self::Float(v)
    }
}

/// Fields in the order in which they are printed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record(pub Vec<(&'static str, Value)>);

impl Record {
    /// Adds a field.
    pub fn push(&mut self, name: &'static str, value: impl Into<Value>) {
        self.0.push((name, value.into()));
    }

    /// Adds a field that may not be known; then it is left out.
    pub fn push_known(&mut self, name: &'static str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.push(name, value);
        }
    }

    /// The line, newline included.
    #[must_use]
    pub fn line(&self, format: LogFormat) -> String {
        let mut line = match format {
            // Strings, numbers and lists of them: writing them cannot fail.
            LogFormat::Json => serde_json::to_string(self).unwrap_or_default(),
            LogFormat::Text => {
                let mut line = String::with_capacity(256);
                self.text("", &mut line);
                line
            }
        };
        line.push('\n');
        line
    }

    fn text(&self, prefix: &str, line: &mut String) {
        for (name, value) in &self.0 {
            if let Value::Fields(inner) = value {
                inner.text(&format!("{prefix}{name}."), line);
                continue;
            }
            if !line.is_empty() {
                line.push(' ');
            }
            let _ = write!(line, "{prefix}{name}=");
            match value {
                Value::Str(s) if plain(s) => line.push_str(s),
                Value::Str(s) => line.push_str(&serde_json::to_string(s).unwrap_or_default()),
                Value::Num(n) => _ = write!(line, "{n}"),
                Value::Float(n) => _ = write!(line, "{n}"),
                Value::Bool(b) => _ = write!(line, "{b}"),
                Value::Fields(_) => {}
            }
        }
    }
}

/// May it stand in logfmt without quotes?
fn plain(s: &str) -> bool {
    !s.is_empty() && s.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '"' | '=' | '\\'))
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Str(v) => serializer.serialize_str(v),
            Self::Num(v) => serializer.serialize_u64(*v),
            Self::Float(v) => serializer.serialize_f64(*v),
            Self::Bool(v) => serializer.serialize_bool(*v),
            Self::Fields(v) => v.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let mut inner = Record::default();
        inner.push("age_ms", 12_u64);
        let mut r = Record::default();
        r.push("b", "two words\n\"x\"");
        r.push("a", "plain/1.2");
        r.push_known("none", None::<&str>);
        r.push("empty", "");
        r.push("token", Value::Fields(inner));
        r
    }

    #[test]
    fn json_keeps_the_order_and_the_line() {
        assert_eq!(
            record().line(LogFormat::Json),
            "{\"b\":\"two words\\n\\\"x\\\"\",\"a\":\"plain/1.2\",\"empty\":\"\",\"token\":{\"age_ms\":12}}\n"
        );
    }

    #[test]
    fn text_quotes_what_needs_it() {
        assert_eq!(
            record().line(LogFormat::Text),
            "b=\"two words\\n\\\"x\\\"\" a=plain/1.2 empty=\"\" token.age_ms=12\n"
        );
    }
}
