//! The sections an object may have: names, types, flags and links, exactly. What linkers and loaders do with a section hangs
//! on these; `.init` would run before the program, and a second table of relocations would be applied unseen.

use super::{Faults, Promise};
use object::{
    Endianness, LittleEndian, Object, ObjectSection, SectionFlags, SymbolFlags, elf, macho, pe,
    read::{
        coff::CoffHeader,
        elf::{FileHeader, SectionHeader},
        macho::MachHeader,
    },
};

/// Checks every section of a file, and what else its format has.
pub fn check(file: &object::File<'_>, bytes: &[u8], faults: &mut Faults) {
    let sound = match file.format() {
        object::BinaryFormat::Elf => elf_sections(bytes, faults).is_ok(),
        object::BinaryFormat::MachO => load_commands(bytes, faults).is_ok() && macho_sections(file, faults),
        object::BinaryFormat::Coff => coff_header(bytes, faults).is_ok() && coff_sections(file, faults),
        _ => false,
    };
    if !sound {
        faults.add(Promise::Format, "file", "has a table of sections that cannot be read");
    }
}

fn stranger(name: &str, faults: &mut Faults) {
    faults.add(Promise::Format, name, "is a section that no object has, or is more than its name says");
}

fn elf_sections(bytes: &[u8], faults: &mut Faults) -> object::read::Result<()> {
    const ALLOC: u64 = elf::SHF_ALLOC as u64;
    const KNOWN: [(&str, u32, u64); 8] = [
        (".text", elf::SHT_PROGBITS, ALLOC | elf::SHF_EXECINSTR as u64),
        (".rodata", elf::SHT_PROGBITS, ALLOC),
        (".bss", elf::SHT_NOBITS, ALLOC | elf::SHF_WRITE as u64),
        (".note.GNU-stack", elf::SHT_PROGBITS, 0),
        (".symtab", elf::SHT_SYMTAB, 0),
        (".strtab", elf::SHT_STRTAB, 0),
        (".shstrtab", elf::SHT_STRTAB, 0),
        (".rela.text", elf::SHT_RELA, elf::SHF_INFO_LINK as u64),
    ];
    let header = elf::FileHeader64::<Endianness>::parse(bytes)?;
    let endian = header.endian()?;
    // RISC-V objects pass floats in registers for doubles; nothing else is said of any.
    let flags = if header.e_machine(endian) == elf::EM_RISCV { elf::EF_RISCV_FLOAT_ABI_DOUBLE } else { 0 };
    let ident = header.e_ident();
    let usual = (ident.os_abi, ident.abi_version) == (elf::ELFOSABI_NONE, 0)
        && (header.e_version(endian), header.e_flags(endian), header.e_entry(endian)) == (1, flags, 0)
        && (header.e_phoff(endian), header.e_phnum(endian)) == (0, 0);
    if !usual {
        faults.add(Promise::Format, "file", "has a header that no object has");
    }
    let sections = header.sections(endian, bytes)?;
    let mut names = Vec::new();
    if sections.len() > KNOWN.len() + 1 {
        faults.add(Promise::Format, "file", format!("has {} sections, more than any object", sections.len()));
        return Ok(());
    }
    for section in sections.iter() {
        names.push(String::from_utf8_lossy(sections.section_name(endian, section)?).into_owned());
    }
    let number = |name: &str| names.iter().position(|n| n == name).unwrap_or(usize::MAX) as u32;
    for (i, (section, name)) in sections.iter().zip(&names).enumerate().skip(1) {
        let found = (name.as_str(), section.sh_type(endian), section.sh_flags(endian));
        // Symbols count from the start of their section for linkers, from its address for some readers.
        let once = number(name) as usize == i && section.sh_addr(endian) == 0;
        let linked = name != ".rela.text" || section.sh_link(endian) == number(".symtab") && section.sh_info(endian) == number(".text");
        if !KNOWN.contains(&found) || !once || !linked {
            stranger(name, faults);
        }
    }
    // Without this section some linkers make every stack of the program executable.
    if !names.iter().any(|n| n == ".note.GNU-stack") {
        faults.add(Promise::Memory, "file", "does not say that its stack holds no code");
    }
    Ok(())
}

fn coff_header(bytes: &[u8], faults: &mut Faults) -> object::read::Result<()> {
    let header = pe::ImageFileHeader::parse(bytes, &mut 0)?;
    if header.size_of_optional_header.get(LittleEndian) != 0 || header.characteristics.get(LittleEndian) != 0 {
        faults.add(Promise::Format, "file", "has a header that no object has");
    }
    Ok(())
}

fn coff_sections(file: &object::File<'_>, faults: &mut Faults) -> bool {
    const KNOWN: [(&str, u32); 3] = [
        (".text", pe::IMAGE_SCN_CNT_CODE | pe::IMAGE_SCN_MEM_EXECUTE | pe::IMAGE_SCN_MEM_READ),
        (".rdata", pe::IMAGE_SCN_CNT_INITIALIZED_DATA | pe::IMAGE_SCN_MEM_READ),
        (".bss", pe::IMAGE_SCN_CNT_UNINITIALIZED_DATA | pe::IMAGE_SCN_MEM_READ | pe::IMAGE_SCN_MEM_WRITE),
    ];
    // How a section is aligned, and that it has more relocations than its header can count.
    let free = pe::IMAGE_SCN_ALIGN_MASK | pe::IMAGE_SCN_LNK_NRELOC_OVFL;
    let mut seen = Vec::new();
    for section in file.sections() {
        let name = section.name().unwrap_or_default().to_owned();
        let SectionFlags::Coff { characteristics } = section.flags() else { return false };
        if !KNOWN.contains(&(name.as_str(), characteristics & !free)) || seen.contains(&name) || section.address() != 0 {
            stranger(&name, faults);
        }
        seen.push(name);
    }
    true
}

fn macho_sections(file: &object::File<'_>, faults: &mut Faults) -> bool {
    const KNOWN: [(&str, &str, u32); 3] = [
        ("__TEXT", "__text", macho::S_ATTR_PURE_INSTRUCTIONS | macho::S_ATTR_SOME_INSTRUCTIONS),
        ("__TEXT", "__const", 0),
        ("__DATA", "__bss", macho::S_ZEROFILL),
    ];
    let mut seen = Vec::new();
    for section in file.sections() {
        let name = section.name().unwrap_or_default().to_owned();
        let segment = section.segment_name().ok().flatten().unwrap_or_default().to_owned();
        let SectionFlags::MachO { flags } = section.flags() else { return false };
        if !KNOWN.contains(&(segment.as_str(), name.as_str(), flags)) || seen.contains(&name) {
            stranger(&name, faults);
        }
        seen.push(name);
    }
    true
}

/// Commands to a linker may name libraries, among others.
fn load_commands(bytes: &[u8], faults: &mut Faults) -> object::read::Result<()> {
    let header = macho::MachHeader64::<Endianness>::parse(bytes, 0)?;
    let endian = header.endian()?;
    // The sections of an object may be taken apart at its symbols.
    if header.flags(endian) != macho::MH_SUBSECTIONS_VIA_SYMBOLS {
        faults.add(Promise::Format, "file", "has a header that no object has");
    }
    let mut commands = header.load_commands(endian, bytes, 0)?;
    while let Some(command) = commands.next()? {
        if ![macho::LC_SEGMENT_64, macho::LC_SYMTAB, macho::LC_DYSYMTAB, macho::LC_BUILD_VERSION].contains(&command.cmd()) {
            faults.add(Promise::Format, "file", format!("has the load command {:#x}, which no object has", command.cmd()));
        }
    }
    Ok(())
}

/// Whether a symbol's type, binding and visibility are those of an object's: a function of another type is called by the
/// linker.
pub fn plain<S: std::fmt::Debug, N: std::fmt::Debug>(symbol: &SymbolFlags<S, N>, global: bool) -> bool {
    match *symbol {
        SymbolFlags::Elf { st_info, st_other } => {
            let (binding, kind) = (st_info >> 4, st_info & 0xf);
            let known = if global {
                &[elf::STT_FUNC][..]
            } else {
                &[elf::STT_NOTYPE, elf::STT_OBJECT, elf::STT_FUNC, elf::STT_FILE, elf::STT_SECTION]
            };
            known.contains(&kind) && st_other == 0 && binding == if global { elf::STB_GLOBAL } else { elf::STB_LOCAL }
        }
        SymbolFlags::MachO { n_desc } => n_desc == 0,
        _ => true,
    }
}
