//! Where things lie in the bytes of an ELF object, for tests that change them.

/// Offsets of fields in a symbol, a section header and a relocation of 64-bit ELF.
pub struct Symbol {
    pub info: usize,
    pub section: usize,
    pub value: usize,
    pub size: usize,
}
pub const SYMBOL: Symbol = Symbol { info: 4, section: 6, value: 8, size: 16 };
pub struct Header {
    pub flags: usize,
    pub address: usize,
    pub size: usize,
    pub link: usize,
    pub align: usize,
    pub entries: usize,
}
pub const HEADER: Header = Header { flags: 8, address: 16, size: 32, link: 40, align: 48, entries: 56 };
pub struct Relocation {
    pub offset: usize,
    pub kind: usize,
    pub symbol: usize,
    pub addend: usize,
}
pub const RELOCATION: Relocation = Relocation { offset: 0, kind: 8, symbol: 12, addend: 16 };

/// A well-formed object.
pub struct Elf<'a> {
    bytes: &'a [u8],
    big: bool,
}

impl<'a> Elf<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, big: bytes[5] == 2 }
    }

    fn number(&self, at: usize, width: usize) -> usize {
        let part = &self.bytes[at..at + width];
        let digits: Vec<u8> = if self.big { part.to_vec() } else { part.iter().rev().copied().collect() };
        digits.iter().fold(0, |n, d| n << 8 | usize::from(*d))
    }

    fn text(&self, at: usize) -> &'a str {
        let rest = &self.bytes[at..];
        std::str::from_utf8(&rest[..rest.iter().position(|b| *b == 0).unwrap()]).unwrap()
    }

    /// Section headers: where each is, and its name.
    fn headers(&self) -> Vec<(usize, &'a str)> {
        let (start, count, names) = (self.number(0x28, 8), self.number(0x3c, 2), self.number(0x3e, 2));
        let strings = self.number(start + 64 * names + 24, 8);
        (0..count).map(|i| start + 64 * i).map(|at| (at, self.text(strings + self.number(at, 4)))).collect()
    }

    /// Where the header of the first section is whose name starts so and that is not empty.
    pub fn section(&self, name: &str) -> usize {
        self.headers().into_iter().find(|(at, n)| n.starts_with(name) && self.number(at + HEADER.size, 8) > 0).unwrap().0
    }

    /// Where the header of a section is that may be empty.
    pub fn any_section(&self, name: &str) -> usize {
        self.headers().into_iter().find(|(_, n)| *n == name).unwrap().0
    }

    /// Offset and size of a section's contents.
    fn contents(&self, header: usize) -> (usize, usize) {
        (self.number(header + 24, 8), self.number(header + HEADER.size, 8))
    }

    /// Symbols: where each is, and its name.
    fn symbols(&self) -> Vec<(usize, &'a str)> {
        let (at, size) = self.contents(self.section(".symtab"));
        let (strings, _) = self.contents(self.section(".strtab"));
        (0..size / 24).map(|i| at + 24 * i).map(|at| (at, self.text(strings + self.number(at, 4)))).collect()
    }

    /// Where a symbol is.
    pub fn symbol(&self, name: &str) -> usize {
        self.symbols().into_iter().find(|(_, n)| *n == name).unwrap_or_else(|| panic!("no {name}")).0
    }

    pub fn symbol_index(&self, name: &str) -> u32 {
        self.symbols().iter().position(|(_, n)| *n == name).unwrap() as u32
    }

    /// Names of functions.
    pub fn functions(&self) -> Vec<String> {
        self.symbols().into_iter().filter(|(at, _)| self.bytes[at + SYMBOL.info] & 15 == 2).map(|(_, n)| n.to_owned()).collect()
    }

    /// Where the code of a function is in the file, and its length.
    pub fn function(&self, name: &str) -> (usize, usize) {
        let symbol = self.symbol(name);
        let (header, _) = self.headers()[self.number(symbol + SYMBOL.section, 2)];
        (self.contents(header).0 + self.number(symbol + SYMBOL.value, 8), self.number(symbol + SYMBOL.size, 8))
    }

    /// Where the relocations of a section are.
    pub fn relocations(&self, name: &str) -> Vec<usize> {
        let all = self.headers().into_iter().filter(|(_, n)| n.starts_with(name)).map(|(at, _)| self.contents(at));
        all.flat_map(|(at, size)| (0..size / 24).map(move |i| at + 24 * i)).collect()
    }

    /// Where some bytes are.
    pub fn find(&self, bytes: &[u8]) -> usize {
        self.bytes.windows(bytes.len()).position(|w| w == bytes).unwrap()
    }
}
