//! Types spelled as in C, well enough to compare and to show.

use btf_rs::{Btf, BtfType, Type};

/// Deeper than any real type; keeps a damaged BTF from going round in circles.
const MAX_DEPTH: u32 = 32;

/// The type of this id in C: `const struct nf_hook_state *`, `u32`, `enum ip_conntrack_info`. Pointers to
/// functions are `(*)()`; type tags are left out. What BTF cannot resolve is `?`.
pub(super) fn c_type(btf: &Btf, id: u32) -> String {
    spell(btf, id, MAX_DEPTH).unwrap_or_else(|| "?".to_owned())
}

fn spell(btf: &Btf, id: u32, depth: u32) -> Option<String> {
    let depth = depth.checked_sub(1)?;
    let inner = |of: &dyn BtfType| spell(btf, of.get_type_id()?, depth);
    let found = btf.resolve_type_by_id(id).ok()?;
    Some(match &found {
        Type::Void => "void".to_owned(),
        Type::Ptr(pointer) => {
            let target = inner(pointer)?;
            if target.ends_with('*') || target.ends_with(')') {
                format!("{target}*")
            } else {
                format!("{target} *")
            }
        }
        Type::Const(of) => qualified("const", &inner(of)?),
        Type::Volatile(of) => qualified("volatile", &inner(of)?),
        Type::Restrict(of) => qualified("restrict", &inner(of)?),
        Type::TypeTag(of) => inner(of)?,
        Type::Array(array) => format!("{}[{}]", inner(array)?, array.len()),
        Type::Struct(of) => tagged("struct", &btf.resolve_name(of).ok()?),
        Type::Union(of) => tagged("union", &btf.resolve_name(of).ok()?),
        Type::Enum(of) => tagged("enum", &btf.resolve_name(of).ok()?),
        Type::Enum64(of) => tagged("enum", &btf.resolve_name(of).ok()?),
        Type::Fwd(of) => tagged(if of.is_union() { "union" } else { "struct" }, &btf.resolve_name(of).ok()?),
        Type::FuncProto(proto) => format!("{} ()", spell(btf, proto.return_type_id(), depth)?),
        other => btf.resolve_name(other.as_btf_type()?).ok()?,
    })
}

/// A qualifier of a pointer comes after the star, any other before the type.
fn qualified(qualifier: &str, of: &str) -> String {
    if of.ends_with('*') { format!("{of}{qualifier}") } else { format!("{qualifier} {of}") }
}

fn tagged(kind: &str, name: &str) -> String {
    if name.is_empty() { format!("{kind} {{…}}") } else { format!("{kind} {name}") }
}
