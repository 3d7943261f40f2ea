//! The kernel's types and functions, as its BTF has them.

use std::io;
use std::path::Path;

use btf_rs::{Btf, BtfType, FuncProto, Type};

use super::btf_names::c_type;

/// Modules whose BTF is read when they have one.
const MODULES: [&str; 2] = ["nf_conntrack", "nf_conntrack_netlink"];

/// BTF of vmlinux and of conntrack's modules. Some 40 MB: drop it when what it was for is known.
pub struct KernelBtf {
    pub(super) base: Btf,
    pub(super) modules: Vec<(String, Btf)>,
    problems: Vec<String>,
}

/// A function that BTF knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionFact {
    /// Its id, as `attach_btf_id` takes it: a module's go on from the last of vmlinux.
    pub btf_id: u32,
    /// The module whose BTF has it; None: vmlinux.
    pub in_module: Option<String>,
    /// Its parameters.
    pub params: Vec<Parameter>,
    /// Type of what it returns, in C.
    pub returns: String,
}

/// A parameter of a function or tracepoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name; empty where BTF has none.
    pub name: String,
    /// Its type, in C; `...` for the rest of a variadic function.
    pub c_type: String,
}

impl KernelBtf {
    /// Reads the BTF below `folder`, normally `/sys/kernel/btf`. A module that is built in, not loaded or
    /// without BTF (5.10) is no error.
    ///
    /// # Errors
    /// When the BTF of vmlinux is missing (`NotFound`: built without CONFIG_DEBUG_INFO_BTF) or unreadable.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let path = folder.join("vmlinux");
        let bytes = std::fs::read(&path)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        let base = Btf::from_bytes(&bytes).map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
        })?;
        let (mut modules, mut problems) = (Vec::new(), Vec::new());
        for name in MODULES {
            let path = folder.join(name);
            match std::fs::read(&path) {
                Ok(bytes) => match Btf::from_split_bytes(&bytes, &base) {
                    Ok(btf) => modules.push((name.to_owned(), btf)),
                    Err(error) => problems.push(format!("{}: {error}", path.display())),
                },
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => problems.push(format!("{}: {error}", path.display())),
            }
        }
        Ok(Self { base, modules, problems })
    }

    /// The modules whose BTF was read.
    pub fn modules(&self) -> impl Iterator<Item = &str> {
        self.modules.iter().map(|(name, _)| name.as_str())
    }

    /// Modules whose BTF is there and could not be read, one line each.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// The function of this name. A module's own comes before one of vmlinux with the same name. None: BTF does
    /// not have it; it may still be in kallsyms, with or without a suffix.
    #[must_use]
    pub fn function(&self, name: &str) -> Option<FunctionFact> {
        let modules = self.modules.iter().map(|(module, btf)| (Some(module), btf));
        modules.chain([(None, &self.base)]).find_map(|(module, btf)| {
            let (btf_id, function) =
                own_types(btf, name).find(|(_, found)| matches!(found, Type::Func(_)))?;
            let proto = prototype(btf, &function)?;
            Some(FunctionFact {
                btf_id,
                in_module: module.cloned(),
                params: parameters(btf, &proto),
                returns: c_type(btf, proto.return_type_id()),
            })
        })
    }

    /// The arguments of the raw tracepoint of this name, without the `void *` that comes before them. None: the
    /// kernel has no such tracepoint, or its BTF does not know it.
    #[must_use]
    pub fn tracepoint_args(&self, name: &str) -> Option<Vec<Parameter>> {
        let name = format!("btf_trace_{name}");
        self.sections().find_map(|btf| {
            let (_, typedef) = own_types(btf, &name).find(|(_, found)| matches!(found, Type::Typedef(_)))?;
            let pointer = btf.resolve_chained_type(typedef.as_btf_type()?).ok()?;
            let mut arguments = parameters(btf, &prototype(btf, &pointer)?);
            (!arguments.is_empty()).then(|| arguments.split_off(1))
        })
    }

    /// vmlinux, then each module.
    pub(super) fn sections(&self) -> impl Iterator<Item = &Btf> {
        [&self.base].into_iter().chain(self.modules.iter().map(|(_, btf)| btf))
    }
}

/// The types of this name that `btf` has itself: of a module, without those of vmlinux.
pub(super) fn own_types<'a>(btf: &'a Btf, name: &str) -> impl Iterator<Item = (u32, Type)> + 'a {
    let section = btf.split().unwrap_or_else(|| btf.base());
    let ids = section.resolve_ids_by_name(name).unwrap_or_default();
    ids.into_iter().filter_map(move |id| Some((id, section.resolve_type_by_id(id).ok()?)))
}

/// The prototype that a function or a pointer leads to.
fn prototype(btf: &Btf, leads_to: &Type) -> Option<FuncProto> {
    match btf.resolve_chained_type(leads_to.as_btf_type()?).ok()? {
        Type::FuncProto(proto) => Some(proto),
        _ => None,
    }
}

fn parameters(btf: &Btf, proto: &FuncProto) -> Vec<Parameter> {
    let parameter = |parameter: &btf_rs::Parameter| {
        let c_type = match parameter.get_type_id() {
            Some(id) if !parameter.is_variadic() => c_type(btf, id),
            _ => "...".to_owned(),
        };
        Parameter { name: btf.resolve_name(parameter).unwrap_or_default(), c_type }
    };
    proto.parameters.iter().map(parameter).collect()
}

#[cfg(test)]
mod tests {
    use super::super::btf_fixture::{Fixture, VMLINUX_TYPES};
    use super::*;

    #[test]
    fn functions_of_vmlinux_and_of_a_module() {
        let fixture = Fixture::write("functions");
        let btf = KernelBtf::open(fixture.folder()).unwrap();
        assert_eq!(btf.modules().collect::<Vec<_>>(), ["nf_conntrack"]);
        assert!(btf.problems().is_empty());

        let work = btf.function("work").unwrap();
        assert_eq!((work.btf_id, work.in_module), (VMLINUX_TYPES, None));
        assert_eq!(work.returns, "void");
        let params: Vec<_> = work.params.iter().map(|p| (p.name.as_str(), p.c_type.as_str())).collect();
        assert_eq!(params, [("outer", "const struct outer *"), ("", "...")]);

        let drop = btf.function("early_drop").unwrap();
        assert_eq!((drop.btf_id, drop.in_module.as_deref()), (VMLINUX_TYPES + 2, Some("nf_conntrack")));
        assert_eq!(
            (drop.returns.as_str(), drop.params[0].c_type.as_str()),
            ("number", "const struct outer *")
        );
        assert_eq!(btf.function("outer"), None, "a structure is no function");
    }

    #[test]
    fn tracepoint_arguments_without_the_first() {
        let fixture = Fixture::write("tracepoints");
        let btf = KernelBtf::open(fixture.folder()).unwrap();
        let arguments = btf.tracepoint_args("event").unwrap();
        assert_eq!(arguments, [Parameter { name: "value".into(), c_type: "number".into() }]);
        assert_eq!(btf.tracepoint_args("none"), None);
    }

    #[test]
    fn missing_and_damaged() {
        let missing = KernelBtf::open(Path::new("/nowhere")).err().unwrap();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        assert!(missing.to_string().contains("/nowhere/vmlinux"), "{missing}");

        let fixture = Fixture::write("damaged");
        std::fs::write(fixture.folder().join("nf_conntrack"), "no BTF").unwrap();
        let btf = KernelBtf::open(fixture.folder()).unwrap();
        assert_eq!(btf.modules().count(), 0);
        assert_eq!(btf.problems().len(), 1);
        assert!(btf.function("work").is_some());
        std::fs::write(fixture.folder().join("vmlinux"), "no BTF").unwrap();
        assert_eq!(KernelBtf::open(fixture.folder()).err().unwrap().kind(), io::ErrorKind::InvalidData);
    }
}
