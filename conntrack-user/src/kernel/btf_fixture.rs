//! A folder of BTF made by hand: a `vmlinux` and a split `nf_conntrack`.
//!
//! ```c
//! typedef unsigned int number;
//! struct item { number a; number b; };
//! typedef struct item alias;
//! struct outer {
//!     number first; number flag : 1;
//!     union { number _; number inside; };    // at 12
//!     struct item items[3]; alias aliased; struct outer *pointer;
//! };
//! void work(const struct outer *outer, ...);
//! typedef void (*btf_trace_event)(void *, number value);
//! number early_drop(const struct outer *outer);    // in the module
//! ```

use std::path::{Path, PathBuf};

const INT: u32 = 1;
const PTR: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const TYPEDEF: u32 = 8;
const CONST: u32 = 10;
const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;
/// In `info`: members carry bit-field sizes.
const KIND_FLAG: u32 = 1 << 31;

/// Id of the last type of vmlinux, which is the function `work`; the module's go on from it.
pub(super) const VMLINUX_TYPES: u32 = 18;

/// The folder, removed when dropped.
pub(super) struct Fixture(PathBuf);

impl Fixture {
    pub(super) fn write(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("btf-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let vmlinux = vmlinux();
        assert_eq!(vmlinux.next_id, VMLINUX_TYPES + 1);
        let module = module(&vmlinux);
        std::fs::write(folder.join("vmlinux"), vmlinux.bytes()).unwrap();
        std::fs::write(folder.join("nf_conntrack"), module.bytes()).unwrap();
        Self(folder)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.0
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A BTF section in the making.
struct Builder {
    types: Vec<u8>,
    strings: Vec<u8>,
    first_string: u32,
    next_id: u32,
}

impl Builder {
    fn string(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let at = self.first_string + u32::try_from(self.strings.len()).unwrap();
        self.strings.extend_from_slice(text.as_bytes());
        self.strings.push(0);
        at
    }

    /// Adds a type; `info` holds kind, number of members and flag, `size` a size or a type.
    fn add(&mut self, name: &str, kind: u32, count: u32, size: u32, rest: &[u32]) -> u32 {
        let name = self.string(name);
        let (kind, flag) = (kind & !KIND_FLAG, kind & KIND_FLAG);
        for word in [name, flag | kind << 24 | count, size].iter().chain(rest) {
            self.types.extend_from_slice(&word.to_ne_bytes());
        }
        self.next_id += 1;
        self.next_id - 1
    }

    fn structure(&mut self, name: &str, kind: u32, size: u32, members: &[(&str, u32, u32)]) -> u32 {
        let words: Vec<u32> =
            members.iter().flat_map(|(name, of, offset)| [self.string(name), *of, *offset]).collect();
        self.add(name, kind, u32::try_from(members.len()).unwrap(), size, &words)
    }

    fn prototype(&mut self, returns: u32, parameters: &[(&str, u32)]) -> u32 {
        let words: Vec<u32> = parameters.iter().flat_map(|(name, of)| [self.string(name), *of]).collect();
        self.add("", FUNC_PROTO, u32::try_from(parameters.len()).unwrap(), returns, &words)
    }

    fn bytes(&self) -> Vec<u8> {
        const HEADER: u32 = 24;
        let types = u32::try_from(self.types.len()).unwrap();
        let strings = u32::try_from(self.strings.len()).unwrap();
        let mut out = 0xeb9f_u16.to_ne_bytes().to_vec();
        out.extend_from_slice(&[1, 0]);
        for word in [HEADER, 0, types, types, strings] {
            out.extend_from_slice(&word.to_ne_bytes());
        }
        out.extend_from_slice(&self.types);
        out.extend_from_slice(&self.strings);
        out
    }
}

/// Ids that the module refers to.
const NUMBER: u32 = 2;
const CONST_OUTER_POINTER: u32 = 12;

fn vmlinux() -> Builder {
    let mut btf = Builder { types: Vec::new(), strings: vec![0], first_string: 0, next_id: 1 };
    let int = btf.add("unsigned int", INT, 0, 4, &[32]);
    let number = btf.add("number", TYPEDEF, 0, int, &[]);
    assert_eq!(number, NUMBER);
    let item = btf.structure("item", STRUCT, 8, &[("a", number, 0), ("b", number, 32)]);
    let alias = btf.add("alias", TYPEDEF, 0, item, &[]);
    let items = btf.add("", ARRAY, 0, 0, &[item, int, 3]);
    let union = btf.structure("", UNION, 4, &[("_", number, 0), ("inside", number, 0)]);
    let union = btf.add("", CONST, 0, union, &[]);
    let outer = 9;
    let pointer = btf.add("", PTR, 0, outer, &[]);
    let members = [
        ("first", number, 0),
        ("flag", number, 1 << 24 | 32),
        ("", union, 96),
        ("items", items, 128),
        ("aliased", alias, 320),
        ("pointer", pointer, 384),
    ];
    assert_eq!(btf.structure("outer", STRUCT | KIND_FLAG, 56, &members), outer);
    let constant = btf.add("", CONST, 0, outer, &[]);
    let void = btf.add("", PTR, 0, 0, &[]);
    assert_eq!(btf.add("", PTR, 0, constant, &[]), CONST_OUTER_POINTER);
    let trace = btf.prototype(0, &[("", void), ("value", number)]);
    let trace = btf.add("", PTR, 0, trace, &[]);
    btf.add("btf_trace_event", TYPEDEF, 0, trace, &[]);
    let work = btf.prototype(0, &[("outer", CONST_OUTER_POINTER), ("", 0)]);
    // A type of the same name that is no function.
    btf.structure("work", STRUCT, 0, &[]);
    btf.add("work", FUNC, 0, work, &[]);
    btf
}

fn module(base: &Builder) -> Builder {
    let first_string = u32::try_from(base.strings.len()).unwrap();
    let mut btf = Builder { types: Vec::new(), strings: Vec::new(), first_string, next_id: base.next_id };
    let proto = btf.prototype(NUMBER, &[("outer", CONST_OUTER_POINTER)]);
    btf.add("early_drop", FUNC, 0, proto, &[]);
    btf
}
