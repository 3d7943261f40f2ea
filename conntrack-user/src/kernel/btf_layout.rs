//! Where members lie in the kernel's structures.

use btf_rs::{Btf, Struct, Type};

use super::btf::{KernelBtf, own_types};

/// Deeper than any real type; keeps a damaged BTF from going round in circles.
const MAX_DEPTH: u32 = 32;

impl KernelBtf {
    /// Byte offset of a member of a structure (or union): `tuplehash`, or through members that are structures
    /// themselves `__sk_common.skc_net.net`. Anonymous members are looked into; an array's member is that of its
    /// first element; pointers are not followed. None: no such member, or it does not begin at a byte.
    #[must_use]
    pub fn member_offset(&self, structure: &str, path: &str) -> Option<u32> {
        self.structures(structure).find_map(|(btf, found)| {
            let (bits, _) = walk(btf, found, path)?;
            bits.is_multiple_of(8).then_some(bits / 8)
        })
    }

    /// Size of a structure (or union), bytes.
    #[must_use]
    pub fn struct_size(&self, name: &str) -> Option<u32> {
        self.structures(name).find_map(|(_, found)| u32::try_from(found.size()).ok())
    }

    /// Size of an element of a member that is an array, bytes.
    #[must_use]
    pub fn array_stride(&self, structure: &str, path: &str) -> Option<u32> {
        self.structures(structure).find_map(|(btf, found)| {
            let (_, member) = walk(btf, found, path)?;
            let Type::Array(array) = plain(btf, member, MAX_DEPTH)? else { return None };
            size_of_type(btf, &btf.resolve_chained_type(&array).ok()?, MAX_DEPTH)
        })
    }

    /// Value of a member of an enumeration. None: no such enumeration or member.
    #[must_use]
    pub fn enum_value(&self, enumeration: &str, member: &str) -> Option<u32> {
        self.sections().find_map(|btf| {
            own_types(btf, enumeration).find_map(|(_, found)| match found {
                Type::Enum(found) => found
                    .members
                    .iter()
                    .find(|m| btf.resolve_name(*m).is_ok_and(|name| name == member))
                    .map(btf_rs::EnumMember::val),
                _ => None,
            })
        })
    }

    /// The structures of this name, those of vmlinux first, each with the BTF that resolves its members.
    fn structures<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a Btf, Struct)> {
        self.sections().flat_map(move |btf| {
            own_types(btf, name).filter_map(move |(_, found)| match found {
                Type::Struct(found) | Type::Union(found) => Some((btf, found)),
                _ => None,
            })
        })
    }
}

/// Bit offset and type of the member at the end of a path.
fn walk(btf: &Btf, structure: Struct, path: &str) -> Option<(u32, Type)> {
    let mut parts = path.split('.');
    let (mut offset, mut member) = find_member(btf, &structure, parts.next()?, MAX_DEPTH)?;
    for part in parts {
        let inside = structure_of(btf, member.clone())?;
        let (more, found) = find_member(btf, &inside, part, MAX_DEPTH)?;
        offset = offset.checked_add(more)?;
        member = found;
    }
    Some((offset, member))
}

/// Bit offset and type of a member, looked for in anonymous members too. Bit fields are not found: there is no
/// address to read them at.
fn find_member(btf: &Btf, structure: &Struct, name: &str, depth: u32) -> Option<(u32, Type)> {
    let depth = depth.checked_sub(1)?;
    structure.members.iter().find_map(|member| {
        let found = btf.resolve_name(member).ok()?;
        let is_bit_field = member.bitfield_size().is_some_and(|bits| bits != 0);
        if found == name && !name.is_empty() && !is_bit_field {
            return Some((member.bit_offset(), btf.resolve_chained_type(member).ok()?));
        }
        if !found.is_empty() {
            return None;
        }
        let inside = match plain(btf, btf.resolve_chained_type(member).ok()?, MAX_DEPTH)? {
            Type::Struct(inside) | Type::Union(inside) => inside,
            _ => return None,
        };
        let (offset, found) = find_member(btf, &inside, name, depth)?;
        Some((member.bit_offset().checked_add(offset)?, found))
    })
}

/// The structure that a type is, or that its elements are.
fn structure_of(btf: &Btf, found: Type) -> Option<Struct> {
    match plain(btf, found, MAX_DEPTH)? {
        Type::Struct(structure) | Type::Union(structure) => Some(structure),
        Type::Array(array) => match plain(btf, btf.resolve_chained_type(&array).ok()?, MAX_DEPTH)? {
            Type::Struct(structure) | Type::Union(structure) => Some(structure),
            _ => None,
        },
        _ => None,
    }
}

/// The type without typedefs, qualifiers and tags.
fn plain(btf: &Btf, mut found: Type, depth: u32) -> Option<Type> {
    for _ in 0..depth {
        found = match &found {
            Type::Typedef(of) => btf.resolve_chained_type(of),
            Type::Const(of) | Type::Volatile(of) | Type::Restrict(of) => btf.resolve_chained_type(of),
            Type::TypeTag(of) => btf.resolve_chained_type(of),
            _ => return Some(found),
        }
        .ok()?;
    }
    None
}

fn size_of_type(btf: &Btf, found: &Type, depth: u32) -> Option<u32> {
    let depth = depth.checked_sub(1)?;
    let size = match plain(btf, found.clone(), MAX_DEPTH)? {
        Type::Struct(of) | Type::Union(of) => of.size(),
        Type::Int(of) => of.size(),
        Type::Enum(of) => of.size(),
        Type::Enum64(of) => of.size(),
        Type::Float(of) => of.size(),
        // The daemon runs on the kernel it describes.
        Type::Ptr(_) => size_of::<usize>(),
        Type::Array(of) => {
            let element = size_of_type(btf, &btf.resolve_chained_type(&of).ok()?, depth)?;
            usize::try_from(element).ok()?.checked_mul(of.len())?
        }
        _ => return None,
    };
    u32::try_from(size).ok()
}

#[cfg(test)]
mod tests {
    use super::super::btf_fixture::Fixture;
    use super::*;

    #[test]
    fn members() {
        let fixture = Fixture::write("members");
        let btf = KernelBtf::open(fixture.folder()).unwrap();
        for (path, expected) in [
            ("first", Some(0)),
            ("inside", Some(12)),
            ("items", Some(16)),
            ("items.b", Some(20)),
            ("aliased.b", Some(44)),
            ("pointer", Some(48)),
            ("pointer.b", None),
            ("flag", None),
            ("first.b", None),
            ("missing", None),
            ("", None),
        ] {
            assert_eq!(btf.member_offset("outer", path), expected, "{path:?}");
        }
        assert_eq!(btf.member_offset("nothing", "first"), None);
        assert_eq!(btf.member_offset("alias", "b"), None, "a typedef's name is not the structure's");
    }

    #[test]
    fn sizes() {
        let fixture = Fixture::write("sizes");
        let btf = KernelBtf::open(fixture.folder()).unwrap();
        assert_eq!(btf.struct_size("item"), Some(8));
        assert_eq!(btf.struct_size("number"), None);
        assert_eq!(btf.array_stride("outer", "items"), Some(8));
        assert_eq!(btf.array_stride("outer", "first"), None);
    }
}
