use super::setup;
use crate::args::Verify;
use quernel::{
    Failure, codegen,
    ir::{Code, Diagnostic},
    read_file, read_text,
};

pub fn run(a: &Verify) -> Result<(), Failure> {
    let file = a.object.display().to_string();
    let bytes = read_file(&a.object)?;
    let beside = a.object.with_extension("h");
    let header = a.header.clone().or_else(|| beside.is_file().then_some(beside));
    let text = header.as_ref().map(|path| read_text(path)).transpose()?;
    let v = codegen::verify(&bytes, text.as_deref()).map_err(|faults| {
        let one = |f: codegen::Fault| {
            let d = Diagnostic::new(Code::BrokenObject, format!("{}: {}", f.promise, f.message)).at(f.place);
            d.in_file(&file)
        };
        Failure(faults.into_iter().map(one).collect())
    })?;
    let all = if header.is_some() { "keeps every promise" } else { "keeps every promise but that of the header, which nobody checked" };
    let with = header.map_or("no header, so no hash was checked".to_owned(), |h| format!("header {}", h.display()));
    setup::print(&format!(
        "{file}: {} for {}, {with}\n{} functions, {} instructions in {} bytes; {} relocations; {} bytes of constants, {} writable\n\
         stack: {} bytes found, {} promised\n{all}\n",
        v.name,
        v.target,
        v.functions,
        v.instructions,
        v.code_bytes,
        v.relocations,
        v.constant_bytes,
        v.writable_bytes,
        v.stack_found,
        v.stack_promised
    ))
}
