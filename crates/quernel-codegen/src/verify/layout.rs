//! The sections an object may have: names, types, flags and links, exactly. What linkers and loaders do with a section hangs
//! on these; `.init` would run before the program, and a second table of relocations would be applied unseen.

use super::{Faults, Promise};
use object::{
    Endianness, LittleEndian, Object, ObjectSection, SectionFlags, SymbolFlags, elf, macho, pe,
    read::{
        coff::CoffHeader,
        elf::{FileHeader, SectionHeader, SectionTable},
        macho::{MachHeader, Segment},
    },
};

/// Checks every section of a file, and what else its format has.
pub fn check(file: &object::File<'_>, bytes: &[u8], faults: &mut Faults) {
    let sound = match file.format() {
        object::BinaryFormat::Elf => elf_sections(bytes, faults).is_ok(),
        object::BinaryFormat::MachO => load_commands(file, bytes, faults).is_ok() && macho_sections(file, faults),
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
        // Readers pass over a table whose size is not that of its entries, linkers do not.
        let entries = match section.sh_type(endian) {
            elf::SHT_RELA | elf::SHT_SYMTAB => section.sh_entsize(endian) == 24 && section.sh_size(endian) % 24 == 0,
            _ => true,
        };
        let linked = match name.as_str() {
            ".rela.text" => (section.sh_link(endian), section.sh_info(endian)) == (number(".symtab"), number(".text")),
            // Linkers take the symbols before this one for local, whatever they say.
            ".symtab" => (section.sh_link(endian), section.sh_info(endian)) == (number(".strtab"), first_global(&sections, endian, bytes)?),
            _ => (section.sh_link(endian), section.sh_info(endian)) == (0, 0),
        };
        let align = section.sh_addralign(endian);
        let entries = entries && (align == 0 || align.is_power_of_two() && align <= 4096);
        if !KNOWN.contains(&found) || !once || !linked || !entries {
            stranger(name, faults);
        }
    }
    // Without this section some linkers make every stack of the program executable.
    if !names.iter().any(|n| n == ".note.GNU-stack") {
        faults.add(Promise::Memory, "file", "does not say that its stack holds no code");
    }
    Ok(())
}

/// The first symbol that is not local.
fn first_global(sections: &SectionTable<'_, elf::FileHeader64<Endianness>>, endian: Endianness, bytes: &[u8]) -> object::read::Result<u32> {
    let symbols = sections.symbols(endian, bytes, elf::SHT_SYMTAB)?;
    Ok(symbols.iter().take_while(|s| s.st_bind() == elf::STB_LOCAL).count() as u32)
}

fn coff_header(bytes: &[u8], faults: &mut Faults) -> object::read::Result<()> {
    let mut offset = 0;
    let header = pe::ImageFileHeader::parse(bytes, &mut offset)?;
    // The count of relocations is elsewhere where it is too large for its place, and only there.
    for section in header.sections(bytes, offset)?.iter() {
        let elsewhere = section.characteristics.get(LittleEndian) & pe::IMAGE_SCN_LNK_NRELOC_OVFL != 0;
        if elsewhere != (section.number_of_relocations.get(LittleEndian) == u16::MAX) {
            faults.add(Promise::Relocations, "file", "counts relocations in two ways");
        }
    }
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
fn load_commands(file: &object::File<'_>, bytes: &[u8], faults: &mut Faults) -> object::read::Result<()> {
    let header = macho::MachHeader64::<Endianness>::parse(bytes, 0)?;
    let endian = header.endian()?;
    // The sections of an object may be taken apart at its symbols.
    if header.flags(endian) != macho::MH_SUBSECTIONS_VIA_SYMBOLS {
        faults.add(Promise::Format, "file", "has a header that no object has");
    }
    let mut commands = header.load_commands(endian, bytes, 0)?;
    let mut relocations = 0;
    let mut seen = Vec::new();
    while let Some(command) = commands.next()? {
        if seen.contains(&command.cmd()) {
            faults.add(Promise::Format, "file", format!("has the load command {:#x} twice", command.cmd()));
        }
        seen.push(command.cmd());
        if let Some((segment, data)) = command.segment_64()? {
            for section in segment.sections(endian, data)? {
                relocations += u64::from(section.nreloc.get(endian));
            }
        }
        if ![macho::LC_SEGMENT_64, macho::LC_SYMTAB, macho::LC_DYSYMTAB, macho::LC_BUILD_VERSION].contains(&command.cmd()) {
            faults.add(Promise::Format, "file", format!("has the load command {:#x}, which no object has", command.cmd()));
        }
    }
    // Some are passed over.
    if file.sections().map(|s| s.relocations().count() as u64).sum::<u64>() != relocations {
        faults.add(Promise::Relocations, "file", "has relocations of a kind that is not listed");
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
