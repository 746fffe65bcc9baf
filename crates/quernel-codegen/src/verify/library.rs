//! The static library around an object.

use super::{Faults, Promise};
use object::read::archive::{ArchiveFile, ArchiveKind, ArchiveOffset};

/// The one member of a static library, with the symbols that each of the library's indices says it has, nameless those of
/// others; anything else as it is, without an index.
pub fn member<'d>(bytes: &'d [u8], faults: &mut Faults) -> (&'d [u8], Vec<Vec<String>>) {
    let Ok(archive) = ArchiveFile::parse(bytes) else { return (bytes, vec![]) };
    // A member that cannot be read is there for others all the same.
    let members: Option<Vec<_>> = archive.members().map(Result::ok).collect();
    let Some([only]) = members.as_deref() else { return (bytes, vec![]) };
    let Ok(object) = only.data(bytes) else { return (bytes, vec![]) };
    let own = |name: &[u8], offset| {
        let inside = archive.member(offset).is_ok_and(|m| m.file_range() == only.file_range());
        if inside { String::from_utf8_lossy(name).into_owned() } else { String::new() }
    };
    let index: Result<Vec<String>, _> =
        archive.symbols().and_then(|symbols| symbols.into_iter().flatten().map(|s| s.map(|s| own(s.name(), s.offset()))).collect());
    // Libraries of Windows have two, one for each family of linkers.
    let more = if archive.kind() == ArchiveKind::Coff {
        first_index(bytes).map(|all| vec![all.into_iter().map(|(name, offset)| own(name, ArchiveOffset(offset.into()))).collect()])
    } else {
        Some(vec![])
    };
    let (Ok(index), Some(more)) = (index, more) else {
        faults.add(Promise::Format, "archive", "has an index that cannot be read");
        return (object, vec![]);
    };
    (object, [vec![index], more].concat())
}

/// The index in the first member of a library: a count, the places of the members, the names, each ended by zero.
fn first_index(bytes: &[u8]) -> Option<Vec<(&[u8], u32)>> {
    let (magic, header) = (8, 60);
    let size: usize = std::str::from_utf8(bytes.get(magic + 48..magic + 58)?).ok()?.trim().parse().ok()?;
    let text = bytes.get(magic + header..)?.get(..size)?;
    let number = |i: usize| Some(u32::from_be_bytes(text.get(4 * i..4 * i + 4)?.try_into().ok()?));
    let count = number(0)? as usize;
    let names = text.get(4usize.checked_mul(count.checked_add(1)?)?..)?;
    let names: Vec<&[u8]> = names.split(|b| *b == 0).take(count).collect();
    (names.len() == count).then_some(())?;
    names.into_iter().enumerate().map(|(i, name)| Some((name, number(i + 1)?))).collect()
}
