//! fentry and fexit on conntrack's functions, of a module too, which aya cannot attach to.
//!
//! aya loads the object and makes the maps. The same object is parsed once more, its programs are relocated
//! onto those maps, and loaded with the BTF object of the function's module.

use std::collections::HashSet;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use anyhow::Context as _;
use aya::Ebpf;
use aya::maps::Map;
use aya_obj::{Object, ProgramSection};

use super::{bpf, info};
use crate::kernel::btf::{FunctionFact, KernelBtf};
use crate::kernel::symbols::{Symbol, Symbols};

/// Programs ready to be loaded, and those that are attached.
pub struct Fentry {
    object: Object,
    attached: Vec<Attached>,
}

/// A program on a function; dropping it detaches and unloads.
struct Attached {
    name: &'static str,
    program: OwnedFd,
    _link: OwnedFd,
}

impl Fentry {
    /// Parses `object` and puts the maps that `ebpf` made of it into its programs. The maps must be open when
    /// [`Fentry::attach`] is called.
    ///
    /// # Errors
    /// If the object is damaged, or `ebpf` is of another.
    pub fn new(object: &[u8], ebpf: &Ebpf) -> anyhow::Result<Self> {
        let mut object = Object::parse(object)?;
        let maps = std::mem::take(&mut object.maps);
        let mut fds = Vec::with_capacity(maps.len());
        for (name, map) in &maps {
            let open = ebpf.map(name).with_context(|| format!("no map {name}"))?;
            fds.push((name.as_str(), raw_fd(open)?, map));
        }
        let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
        object.relocate_maps(fds.into_iter(), &sections)?;
        object.relocate_calls(&sections)?;
        object.sanitize_functions(aya::features());
        Ok(Self { object, attached: Vec::new() })
    }

    /// Loads a program for a function and attaches it there.
    ///
    /// # Errors
    /// One line: no such program, or what the kernel said.
    pub fn attach(&mut self, name: &'static str, target: &Target) -> Result<(), String> {
        let program = self.object.programs.get(name).ok_or_else(|| format!("no program {name}"))?;
        let at_return = match program.section {
            ProgramSection::FEntry { .. } => false,
            ProgramSection::FExit { .. } => true,
            _ => return Err(format!("program {name} is not of the kind its hook wants")),
        };
        let function = self.object.functions.get(&program.function_key());
        let module = target.module.as_deref().map(bpf::module_btf).transpose().map_err(|e| e.to_string())?;
        let loaded = bpf::load(&bpf::Tracing {
            name,
            at_return,
            instructions: &function.ok_or_else(|| format!("program {name} has no code"))?.instructions,
            license: &program.license,
            function: target.btf_id,
            module: module.as_ref().map(OwnedFd::as_fd),
        })?;
        let link = bpf::attach(&loaded).map_err(|error| format!("cannot attach: {error}"))?;
        self.attached.push(Attached { name, program: loaded, _link: link });
        Ok(())
    }

    /// Detaches and unloads a program, wherever it is attached.
    pub fn detach(&mut self, name: &str) {
        self.attached.retain(|attached| attached.name != name);
    }

    /// Runs of a program, summed over the functions it is attached to. None: not attached, or not told.
    #[must_use]
    pub fn runs(&self, name: &str) -> Option<info::Runs> {
        let all: Vec<_> = self.attached.iter().filter(|a| a.name == name).collect();
        let mut sum: Option<info::Runs> = None;
        for attached in all {
            let runs = info::runs(&attached.program)?;
            let so_far = sum.unwrap_or_default();
            sum = Some(info::Runs {
                missed: so_far.missed + runs.missed,
                runs: so_far.runs + runs.runs,
                time_ns: so_far.time_ns + runs.time_ns,
            });
        }
        sum
    }
}

fn raw_fd(map: &Map) -> anyhow::Result<RawFd> {
    let data = match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::PerCpuHashMap(data)
        | Map::Queue(data)
        | Map::RingBuf(data) => data,
        _ => anyhow::bail!("a map of a kind that no probe here uses"),
    };
    let fd: BorrowedFd<'_> = data.fd().as_fd();
    Ok(fd.as_raw_fd())
}

/// A function that a tracing program can be attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its id in BTF.
    btf_id: u32,
    /// The module it is in; None: vmlinux.
    module: Option<String>,
}

/// What the running kernel has, read once for a round of attaching: some 40 MB.
pub struct Facts {
    btf: KernelBtf,
    symbols: Symbols,
}

impl Facts {
    /// Reads types and symbols.
    ///
    /// # Errors
    /// When either cannot be read.
    pub fn read(sysfs: &Path, procfs: &Path, functions: &[&str]) -> anyhow::Result<Self> {
        Ok(Self {
            btf: KernelBtf::open(&sysfs.join("kernel/btf"))?,
            symbols: Symbols::read(procfs, functions)?,
        })
    }

    /// Whether and where fentry finds all calls of this function.
    ///
    /// # Errors
    /// Why it does not, in one line.
    pub fn target(&self, function: &str) -> Result<Target, String> {
        target(function, self.symbols.all(function), self.btf.function(function))
    }
}

/// fentry attaches by plain name: of a function the compiler split or cloned it would see a part of the calls.
fn target(function: &str, symbols: &[Symbol], fact: Option<FunctionFact>) -> Result<Target, String> {
    let Some(plain) = symbols.iter().find(|s| s.name == function) else {
        return Err(match symbols.first() {
            Some(suffixed) => format!("the compiler made {} of {function}", suffixed.name),
            None => format!("this kernel has no function {function}"),
        });
    };
    let cloned = [".part.", ".isra.", ".constprop."];
    if let Some(part) = symbols.iter().find(|s| cloned.iter().any(|c| s.name.contains(c))) {
        return Err(format!(
            "the compiler split {} off: fentry would see only a part of the calls",
            part.name
        ));
    }
    match fact {
        None => {
            let place = plain.module.as_deref().unwrap_or("vmlinux");
            Err(format!(
                "{function} is not in the BTF of {place} (of modules, kernels before 5.11 have none)"
            ))
        }
        Some(fact) if fact.in_module != plain.module => {
            Err(format!("the BTF of {function} is of another function of that name"))
        }
        Some(fact) => Ok(Target { btf_id: fact.btf_id, module: fact.in_module }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symbol(name: &str) -> Symbol {
        Symbol { name: name.to_owned(), address: None, module: Some("nf_conntrack".to_owned()) }
    }

    fn fact(module: Option<&str>) -> Option<FunctionFact> {
        let in_module = module.map(str::to_owned);
        Some(FunctionFact { btf_id: 7, in_module, params: Vec::new(), returns: "bool".to_owned() })
    }

    #[test]
    fn a_whole_function_of_a_module_is_a_target() {
        let found = target("nf_ct_delete", &[symbol("nf_ct_delete")], fact(Some("nf_conntrack")));
        assert_eq!(found, Ok(Target { btf_id: 7, module: Some("nf_conntrack".to_owned()) }));
    }

    #[test]
    fn what_fentry_would_see_in_part_is_left_to_kprobe() {
        let both = [symbol("nf_ct_delete"), symbol("nf_ct_delete.part.0")];
        let why = target("nf_ct_delete", &both, fact(Some("nf_conntrack"))).unwrap_err();
        assert!(why.contains("nf_ct_delete.part.0"), "{why}");
        let why = target("early_drop", &[symbol("early_drop.isra.0")], fact(None)).unwrap_err();
        assert!(why.contains("early_drop.isra.0"), "{why}");
    }

    #[test]
    fn no_function_no_btf_and_the_btf_of_another() {
        assert!(target("x", &[], fact(None)).unwrap_err().contains("no function x"));
        assert!(target("x", &[symbol("x")], None).unwrap_err().contains("BTF of nf_conntrack"));
        assert!(target("x", &[symbol("x")], fact(None)).is_err());
    }
}
