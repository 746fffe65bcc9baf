//! The static library that holds an object: GNU, BSD or COFF archive, by the target.

use crate::{network::bug, target::Target};
use ar_archive_writer::{ArchiveKind, DEFAULT_OBJECT_READER, NewArchiveMember, write_archive_to_stream};
use quernel_ir::diag::Diagnostic;
use std::io::Cursor;
use target_lexicon::BinaryFormat;

/// Wraps an object of [`crate::object`] in an archive with a symbol index. Members carry no time, owner or path: equal
/// objects give equal archives.
///
/// # Errors
/// `Internal` when the bytes are no object.
pub fn archive(object: &[u8], target: &Target, name: &str) -> Result<Vec<u8>, Diagnostic> {
    let kind = match target.lexicon().binary_format {
        BinaryFormat::Coff => ArchiveKind::Coff,
        BinaryFormat::Macho => ArchiveKind::Darwin,
        _ => ArchiveKind::Gnu,
    };
    let member = NewArchiveMember::new(object, &DEFAULT_OBJECT_READER, format!("{name}.{}", target.object_suffix()));
    let mut out = Cursor::new(Vec::new());
    write_archive_to_stream(&mut out, &[member], kind, false, None).map_err(bug)?;
    Ok(out.into_inner())
}
