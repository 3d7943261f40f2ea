//! Which functions the running kernel has, under which names, in which modules.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

/// A function in /proc/kallsyms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Its full name, with the compiler's suffix if it has one.
    pub name: String,
    /// Its address. None: kptr_restrict hides it from this reader.
    pub address: Option<u64>,
    /// The module it is in; None: vmlinux.
    pub module: Option<String>,
}

/// What was found for each name asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Symbols {
    found: HashMap<String, Vec<Symbol>>,
}

impl Symbols {
    /// Looks for functions in `kallsyms` below `procfs`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(procfs: &Path, names: &[&str]) -> io::Result<Self> {
        let path = procfs.join("kallsyms");
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let file = File::open(&path).map_err(named)?;
        Self::parse(BufReader::with_capacity(256 << 10, file), names).map_err(named)
    }

    /// Looks for functions in text of the form of kallsyms, in one pass. A function is found under its plain
    /// name and under its name with a suffix: `nf_ct_delete.part.0`. The compiler's `.cold` parts are no
    /// functions and are left out. Lines that cannot be read are skipped.
    ///
    /// # Errors
    /// What reading gave.
    pub fn parse(mut reader: impl BufRead, names: &[&str]) -> io::Result<Self> {
        let mut found: HashMap<String, Vec<Symbol>> =
            names.iter().map(|name| ((*name).to_owned(), Vec::new())).collect();
        let mut line = Vec::with_capacity(512);
        loop {
            line.clear();
            if reader.read_until(b'\n', &mut line)? == 0 {
                return Ok(Self { found });
            }
            let Some((plain, symbol)) = parse_line(&line) else { continue };
            if let Some(symbols) = found.get_mut(plain) {
                symbols.extend(symbol.owned());
            }
        }
    }

    /// Every function under `name`, suffixed ones included, in the order of the addresses. More than one of the
    /// same full name: a probe by name would be ambiguous.
    #[must_use]
    pub fn all(&self, name: &str) -> &[Symbol] {
        self.found.get(name).map_or(&[], Vec::as_slice)
    }

    /// The function of exactly this name; the first if there are several.
    #[must_use]
    pub fn exact(&self, name: &str) -> Option<&Symbol> {
        self.all(name).iter().find(|symbol| symbol.name == name)
    }

    /// The functions of this name that carry a suffix.
    pub fn suffixed<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Symbol> {
        self.all(name).iter().filter(move |symbol| symbol.name != name)
    }
}

/// A line of kallsyms, not yet copied.
struct Line<'a> {
    name: &'a str,
    address: &'a str,
    module: Option<&'a str>,
}

impl Line<'_> {
    fn owned(&self) -> Option<Symbol> {
        let address = u64::from_str_radix(self.address, 16).ok()?;
        Some(Symbol {
            name: self.name.to_owned(),
            address: Some(address).filter(|address| *address != 0),
            module: self.module.map(str::to_owned),
        })
    }
}

/// `ffffffff81f36880 t early_drop\t[nf_conntrack]`, and the name up to its suffix.
fn parse_line(line: &[u8]) -> Option<(&str, Line<'_>)> {
    let mut fields = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    let (address, kind, name) = (fields.next()?, fields.next()?, fields.next()?);
    let module = fields.next().and_then(|field| field.strip_prefix('[')?.strip_suffix(']'));
    if !matches!(kind, "t" | "T" | "w" | "W") {
        return None;
    }
    let (plain, suffix) = name.split_once('.').unwrap_or((name, ""));
    if suffix.split('.').any(|part| part == "cold") {
        return None;
    }
    Some((plain, Line { name, address, module }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
ffffffff81000000 T _text
ffffffffc0a01000 t early_drop\t[nf_conntrack]
ffffffffc0a02000 t early_drop.cold\t[nf_conntrack]
ffffffffc0a03000 t nf_ct_delete.part.0\t[nf_conntrack]
ffffffffc0a03100 T nf_ct_delete\t[nf_conntrack]
0000000000000000 t init_conntrack.constprop.0\t[nf_conntrack]
ffffffffc0a04000 d gc_worker\t[nf_conntrack]
ffffffff81200000 t gc_worker
ffffffff81300000 t gc_worker
ffffffff81300000 t early_dropper
garbage

zzzz T _text
";

    fn parse(names: &[&str]) -> Symbols {
        Symbols::parse(TEXT.as_bytes(), names).unwrap()
    }

    fn names<'a>(symbols: impl IntoIterator<Item = &'a Symbol>) -> Vec<&'a str> {
        symbols.into_iter().map(|symbol| symbol.name.as_str()).collect()
    }

    #[test]
    fn plain_suffixed_and_cold() {
        let symbols = parse(&["early_drop", "nf_ct_delete", "init_conntrack", "resolve_normal_ct"]);
        assert_eq!(names(symbols.all("early_drop")), ["early_drop"]);
        assert_eq!(names(symbols.all("nf_ct_delete")), ["nf_ct_delete.part.0", "nf_ct_delete"]);
        assert_eq!(names(symbols.suffixed("nf_ct_delete")), ["nf_ct_delete.part.0"]);
        assert_eq!(symbols.exact("nf_ct_delete").unwrap().address, Some(0xffff_ffff_c0a0_3100));
        assert_eq!(symbols.exact("init_conntrack"), None);
        assert_eq!(symbols.all("init_conntrack")[0].address, None, "hidden is not 0");
        assert!(symbols.all("resolve_normal_ct").is_empty());
        assert!(symbols.all("never asked for").is_empty());
    }

    #[test]
    fn modules_data_and_ambiguity() {
        let symbols = parse(&["early_drop", "gc_worker", "_text"]);
        assert_eq!(symbols.exact("early_drop").unwrap().module.as_deref(), Some("nf_conntrack"));
        assert_eq!(symbols.all("gc_worker").len(), 2, "the data symbol is no function");
        assert_eq!(symbols.exact("gc_worker").unwrap().module, None);
        assert_eq!(symbols.all("_text").len(), 1);
    }

    #[test]
    fn the_running_kernel() {
        let begin = std::time::Instant::now();
        match Symbols::read(Path::new("/proc"), &["tcp_v4_rcv", "no_such_function"]) {
            Ok(symbols) => {
                println!("read /proc/kallsyms in {:?}", begin.elapsed());
                assert!(symbols.exact("tcp_v4_rcv").is_some());
                assert!(symbols.all("no_such_function").is_empty());
            }
            Err(error) => println!("skipped: {error}"),
        }
    }
}
