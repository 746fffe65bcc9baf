//! The object file: sections, functions, relocations, each checked by itself.

use super::{Faults, Promise, layout};
use object::{
    Architecture, BinaryFormat, Object, ObjectSection, ObjectSymbol, RelocationFlags, RelocationTarget, SectionKind, SymbolKind, elf,
    macho, pe,
};
use std::collections::BTreeMap;

/// What a relocation does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The distance of a call.
    Call,
    /// A distance to code or data.
    Distance,
    /// The page of an address, or what is above its low part.
    Page,
    /// The low part of an address whose page another relocation has.
    Low,
}

/// A relocation and what it points to.
#[derive(Clone, Copy, Debug)]
pub struct Relocation {
    pub kind: Kind,
    /// Section, and offset there, of the symbol; what is added is not part of it.
    pub section: usize,
    pub offset: u64,
}

/// A section that is loaded.
#[derive(Debug)]
pub struct Section {
    pub index: usize,
    pub name: String,
    pub code: bool,
    pub writable: bool,
    /// Bytes in memory.
    pub size: usize,
    /// Contents; empty where memory starts zeroed.
    pub data: Vec<u8>,
    /// By offset.
    pub relocations: BTreeMap<u64, Relocation>,
}

/// A function: `start..end` of a section.
#[derive(Clone, Debug)]
pub struct Function {
    pub name: String,
    /// Position of its section in the list.
    pub section: usize,
    pub start: u64,
    pub end: u64,
}

/// The parts that are checked.
pub struct File {
    pub architecture: Architecture,
    pub format: BinaryFormat,
    /// Prefix of the symbols.
    pub name: String,
    pub sections: Vec<Section>,
    /// By section and start.
    pub functions: Vec<Function>,
    /// Symbols of data: name, position of the section, offset.
    pub data: Vec<(String, usize, u64)>,
}

/// No object has more functions.
const MOST_FUNCTIONS: usize = 10_000;

/// What symbols an object shows.
pub const ENTRIES: [&str; 3] = ["_run", "_run_v", "_info"];

impl File {
    /// Reads and checks everything but code; `None` when there is nothing to go on with.
    pub fn parse(bytes: &[u8], faults: &mut Faults) -> Option<Self> {
        let file = match object::File::parse(bytes) {
            Ok(file) => file,
            Err(e) => {
                faults.add(Promise::Format, "file", format!("does not parse: {e}"));
                return None;
            }
        };
        if file.kind() != object::ObjectKind::Relocatable {
            faults.add(Promise::Format, "file", format!("is {:?}, not relocatable", file.kind()));
        }
        let architecture = file.architecture();
        let known = matches!(architecture, Architecture::X86_64 | Architecture::Aarch64 | Architecture::Riscv64 | Architecture::S390x);
        if !known || file.is_little_endian() == (architecture == Architecture::S390x) {
            faults.add(Promise::Format, "file", format!("of the machine {architecture:?} cannot be checked"));
            return None;
        }
        let mut out = Self {
            architecture,
            format: file.format(),
            name: String::new(),
            sections: Vec::new(),
            functions: Vec::new(),
            data: Vec::new(),
        };
        layout::check(&file, bytes, faults);
        out.read_sections(&file, faults);
        out.read_symbols(&file, faults);
        out.read_relocations(&file, faults);
        out.name = out.prefix(faults)?;
        Some(out)
    }

    fn read_sections<'d>(&mut self, file: &object::File<'d>, faults: &mut Faults) {
        for section in file.sections() {
            let Ok(name) = section.name().map(str::to_owned) else {
                faults.add(Promise::Format, format!("section {}", section.index().0), "has no readable name");
                continue;
            };
            let (code, writable) = match section.kind() {
                SectionKind::Text => (true, false),
                SectionKind::ReadOnlyData | SectionKind::ReadOnlyString => (false, false),
                SectionKind::Data | SectionKind::UninitializedData => (false, true),
                // Symbol tables, notes, what tools read.
                SectionKind::Metadata | SectionKind::Linker | SectionKind::OtherString | SectionKind::Note | SectionKind::Debug => continue,
                SectionKind::Other if section.size() == 0 && name.contains("GNU-stack") => continue,
                _ if section.size() == 0 => continue,
                kind => {
                    faults.add(Promise::Memory, name, format!("is a section of kind {kind:?}"));
                    continue;
                }
            };
            if flags_differ(&section, code, writable) {
                faults.add(Promise::Memory, name.clone(), "can be both written and executed, or is more than its kind says");
            }
            let data = section.data().map(<[u8]>::to_vec).unwrap_or_default();
            let size = section.size() as usize;
            if data.len() != size && !(writable && data.is_empty()) {
                faults.add(Promise::Format, name.clone(), format!("has {} of its {size} bytes", data.len()));
            }
            if !code && !writable && size > 0 && section.align() < 16 {
                faults.add(Promise::Memory, name.clone(), format!("is aligned to {} bytes", section.align()));
            }
            self.sections.push(Section { index: section.index().0, name, code, writable, size, data, relocations: BTreeMap::new() });
        }
        let writable: usize = self.sections.iter().filter(|s| s.writable).map(|s| s.size).sum();
        if writable > 4 || self.sections.iter().any(|s| s.writable && s.data.iter().any(|b| *b != 0)) {
            faults.add(Promise::Memory, "file", format!("has {writable} writable bytes, or some that do not start as zero"));
        }
        if !self.sections.iter().any(|s| s.code && s.size > 0) {
            faults.add(Promise::Format, "file", "has no code");
        }
    }

    fn position(&self, index: usize) -> Option<usize> {
        self.sections.iter().position(|s| s.index == index)
    }

    /// A symbol's name as C has it: Mach-O puts an underscore before it.
    pub fn plain_name<'n>(&self, name: &'n str) -> &'n str {
        if self.format == BinaryFormat::MachO { name.strip_prefix('_').unwrap_or(name) } else { name }
    }

    fn read_symbols<'d>(&mut self, file: &object::File<'d>, faults: &mut Faults) {
        let mut global = Vec::new();
        let mut starts = Vec::new();
        for symbol in file.symbols() {
            if symbol.index().0 == 0 && self.format == BinaryFormat::Elf {
                continue;
            }
            let Ok(name) = symbol.name().map(|n| self.plain_name(n).to_owned()) else {
                faults.add(Promise::Symbols, format!("symbol {}", symbol.index().0), "has no readable name");
                continue;
            };
            if matches!(symbol.kind(), SymbolKind::File | SymbolKind::Section) {
                if symbol.is_global() || !layout::plain(&symbol.flags(), false) {
                    faults.add(Promise::Symbols, name, "names a file or a section, and is more than that");
                }
                continue;
            }
            if symbol.is_undefined() || symbol.is_common() || symbol.is_weak() {
                faults.add(Promise::Symbols, name, "is undefined, common or weak");
                continue;
            }
            if symbol.is_global() {
                global.push(name.clone());
            }
            if !layout::plain(&symbol.flags(), symbol.is_global()) {
                faults.add(Promise::Symbols, name, "is of a type that no symbol of an object has");
                continue;
            }
            let Some(position) = symbol.section_index().and_then(|i| self.position(i.0)) else {
                // This one says that the code of the file keeps the rules of safe exception handlers.
                if self.format != BinaryFormat::Coff || name != "@feat.00" || symbol.is_global() {
                    faults.add(Promise::Symbols, name, "lies in no section");
                }
                continue;
            };
            let base = file.section_by_index(object::SectionIndex(self.sections[position].index)).map_or(0, |s| s.address());
            let offset = symbol.address().wrapping_sub(base);
            if offset > self.sections[position].size as u64 {
                faults.add(Promise::Symbols, name, "lies outside its section");
            } else if self.sections[position].code {
                // Labels, such as those that relocation pairs of RISC-V point to.
                if symbol.kind() != SymbolKind::Text && !symbol.is_global() {
                    continue;
                }
                starts.push((position, offset, symbol.size(), name));
            } else {
                self.data.push((name, position, offset));
            }
        }
        starts.sort();
        let mut names: Vec<&String> = starts.iter().map(|s| &s.3).collect();
        names.sort();
        for twice in names.windows(2).filter(|pair| pair[0] == pair[1]) {
            faults.add(Promise::Symbols, twice[0].clone(), "is the name of two functions");
        }
        for (i, (section, start, size, name)) in starts.iter().enumerate() {
            // Only ELF says how long a function is; elsewhere the next one ends it.
            let next = starts.get(i + 1).filter(|n| n.0 == *section).map_or(self.sections[*section].size as u64, |n| n.1);
            let end = if *size > 0 { start.saturating_add(*size) } else { next };
            if end > next || end <= *start {
                faults.add(Promise::Symbols, name.clone(), "overlaps the next function, leaves its section or is empty");
                continue;
            }
            self.functions.push(Function { name: name.clone(), section: *section, start: *start, end });
        }
        if self.functions.len() > MOST_FUNCTIONS {
            faults.add(Promise::Format, "file", format!("has {} functions, more than {MOST_FUNCTIONS}", self.functions.len()));
            self.functions.truncate(MOST_FUNCTIONS);
        }
        global.sort();
        let prefix = global.iter().find_map(|n| n.strip_suffix("_run")).unwrap_or_default();
        self.name = prefix.to_owned();
        let expected = entries(prefix);
        if prefix.is_empty() || global != expected {
            faults.add(Promise::Symbols, "file", format!("shows {global:?} instead of one NAME_run, NAME_run_v and NAME_info"));
        }
    }

    fn prefix(&self, faults: &mut Faults) -> Option<String> {
        let name = self.name.clone();
        if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') || name.starts_with(|c: char| c.is_ascii_digit()) {
            faults.add(Promise::Symbols, name, "is no name in C");
            return None;
        }
        for (symbol, ..) in &self.data {
            let own = symbol.strip_prefix(&name).is_some_and(|rest| ["_constants", "_info_text", "_variant"].contains(&rest));
            // Compilers for some formats give sections and pools names of their own.
            if !own && !symbol.starts_with('.') && !symbol.starts_with("L") && !symbol.starts_with("l") {
                faults.add(Promise::Symbols, symbol.clone(), "is data that no object has");
            }
        }
        Some(name)
    }

    fn read_relocations<'d>(&mut self, file: &object::File<'d>, faults: &mut Faults) {
        for at in 0..self.sections.len() {
            let Ok(section) = file.section_by_index(object::SectionIndex(self.sections[at].index)) else { continue };
            for (offset, relocation) in section.relocations() {
                let place = format!("{}+{offset:#x}", self.sections[at].name);
                if !self.sections[at].code {
                    faults.add(Promise::Relocations, place, "is data that has to be relocated");
                    continue;
                }
                let Some(kind) = listed(self.architecture, relocation.flags()) else {
                    faults.add(Promise::Relocations, place, format!("is of a kind that is not listed: {:?}", relocation.flags()));
                    continue;
                };
                if !nothing_added(self.architecture, &relocation, &self.sections[at].data, offset) {
                    faults.add(Promise::Relocations, place, "points beside its symbol");
                    continue;
                }
                let target = match relocation.target() {
                    RelocationTarget::Symbol(index) => file.symbol_by_index(index).ok().and_then(|s| {
                        let section = file.section_by_index(s.section_index()?).ok()?;
                        Some((self.position(section.index().0)?, s.address().wrapping_sub(section.address())))
                    }),
                    // Mach-O adds what lies at the place to a section's address.
                    RelocationTarget::Section(index) if self.format != BinaryFormat::MachO => self.position(index.0).map(|p| (p, 0)),
                    _ => None,
                };
                let Some((section, symbol)) = target else {
                    faults.add(Promise::Relocations, place, "points to nothing in this object");
                    continue;
                };
                let relocation = Relocation { kind, section, offset: symbol };
                if self.sections[at].relocations.insert(offset, relocation).is_some() {
                    // The pairs of RISC-V are made of one relocation each.
                    faults.add(Promise::Relocations, place, "is the second at its place");
                }
            }
        }
    }

    /// The names of the entries, in order.
    pub fn entries(&self) -> Vec<String> {
        entries(&self.name)
    }

    /// The function that starts at an offset of a section.
    pub fn function_at(&self, section: usize, offset: u64) -> Option<usize> {
        self.functions.binary_search_by_key(&(section, offset), |f| (f.section, f.start)).ok()
    }
}

fn entries(prefix: &str) -> Vec<String> {
    let mut all: Vec<String> = ENTRIES.iter().map(|e| format!("{prefix}{e}")).collect();
    all.sort();
    all
}

/// Whether the flags of a section allow more than its kind.
fn flags_differ<'d>(section: &object::Section<'d, '_>, code: bool, writable: bool) -> bool {
    match section.flags() {
        object::SectionFlags::Elf { sh_flags } => {
            let has = |f: u32| sh_flags & u64::from(f) != 0;
            has(elf::SHF_EXECINSTR) != code || has(elf::SHF_WRITE) != writable || has(elf::SHF_TLS)
        }
        object::SectionFlags::Coff { characteristics } => {
            let has = |f: u32| characteristics & f != 0;
            has(pe::IMAGE_SCN_MEM_EXECUTE) != code || has(pe::IMAGE_SCN_MEM_WRITE) != writable
        }
        object::SectionFlags::MachO { flags } => (flags & (macho::S_ATTR_PURE_INSTRUCTIONS | macho::S_ATTR_SOME_INSTRUCTIONS) != 0) != code,
        _ => true,
    }
}

/// Whether a relocation, which is of a listed kind, points to its symbol itself: what is added makes up for the distance from
/// the place to the end of the instruction, or from where the distance counts, and no more.
fn nothing_added(architecture: Architecture, relocation: &object::Relocation, data: &[u8], offset: u64) -> bool {
    if !relocation.has_implicit_addend() {
        return relocation.addend()
            == match architecture {
                Architecture::X86_64 => -4,
                Architecture::S390x => 2,
                _ => 0,
            };
    }
    let Some(word) = usize::try_from(offset).ok().and_then(|at| data.get(at..at.checked_add(4)?)) else { return false };
    let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
    let mask = match (architecture, relocation.flags()) {
        (Architecture::Aarch64, RelocationFlags::MachO { r_type: macho::ARM64_RELOC_BRANCH26, .. }) => 0x03ff_ffff,
        (Architecture::Aarch64, RelocationFlags::MachO { r_type: macho::ARM64_RELOC_PAGE21, .. }) => 0x60ff_ffe0,
        (Architecture::Aarch64, _) => 0x003f_fc00,
        _ => u32::MAX,
    };
    word & mask == 0
}

/// The kind of a relocation that objects may have.
fn listed(architecture: Architecture, flags: RelocationFlags) -> Option<Kind> {
    Some(match (architecture, flags) {
        (Architecture::X86_64, RelocationFlags::Elf { r_type }) => match r_type {
            elf::R_X86_64_PLT32 => Kind::Call,
            elf::R_X86_64_PC32 => Kind::Distance,
            _ => return None,
        },
        (Architecture::X86_64, RelocationFlags::Coff { typ: pe::IMAGE_REL_AMD64_REL32 }) => Kind::Distance,
        (Architecture::X86_64, RelocationFlags::MachO { r_type, r_pcrel: true, r_length: 2 }) => match r_type {
            macho::X86_64_RELOC_BRANCH => Kind::Call,
            macho::X86_64_RELOC_SIGNED => Kind::Distance,
            _ => return None,
        },
        (Architecture::Aarch64, RelocationFlags::Elf { r_type }) => match r_type {
            elf::R_AARCH64_CALL26 => Kind::Call,
            elf::R_AARCH64_ADR_PREL_LO21 => Kind::Distance,
            elf::R_AARCH64_ADR_PREL_PG_HI21 => Kind::Page,
            elf::R_AARCH64_ADD_ABS_LO12_NC => Kind::Low,
            _ => return None,
        },
        (Architecture::Aarch64, RelocationFlags::MachO { r_type, r_pcrel, r_length: 2 }) => match (r_type, r_pcrel) {
            (macho::ARM64_RELOC_BRANCH26, true) => Kind::Call,
            (macho::ARM64_RELOC_PAGE21, true) => Kind::Page,
            (macho::ARM64_RELOC_PAGEOFF12, false) => Kind::Low,
            _ => return None,
        },
        (Architecture::Riscv64, RelocationFlags::Elf { r_type }) => match r_type {
            elf::R_RISCV_CALL_PLT => Kind::Call,
            elf::R_RISCV_PCREL_HI20 => Kind::Page,
            elf::R_RISCV_PCREL_LO12_I => Kind::Low,
            _ => return None,
        },
        (Architecture::S390x, RelocationFlags::Elf { r_type }) => match r_type {
            elf::R_390_PLT32DBL => Kind::Call,
            elf::R_390_PC32DBL => Kind::Distance,
            _ => return None,
        },
        _ => return None,
    })
}
