//! An x86-64 CPU in software, with AVX-512 and AVX-VNNI: runs compiled code whose instructions this machine may lack.
//!
//! It knows the instructions that leaf kernels and the code around them consist of and panics at any other, so what it
//! has run it has understood. Memory is that of the test itself: a wrong address faults as it would on a CPU. A function
//! that this machine can run is called natively unless everything is to be emulated; that is how the emulator is
//! checked against the real CPU.

mod moves;
mod scalar;
mod vector;

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register, RoundingControl};
use std::{collections::HashMap, rc::Rc};

/// Bytes of a vector register, and a value on its way to or from one.
pub type Vector = [u8; 64];

/// What a decoded instruction does.
#[derive(Clone, Copy)]
enum Op {
    /// Lanes of so many bytes, from one, two or three operands; the third form gets the destination first.
    Lanes1(usize, fn(u64) -> u64),
    Lanes2(usize, fn(u64, u64) -> u64),
    Lanes3(usize, fn(u64, u64, u64) -> u64),
    /// The lowest lane of the last operand and the other lanes of the first.
    Lowest1(usize, fn(u64) -> u64),
    Lowest2(usize, fn(u64, u64) -> u64),
    Lowest3(usize, fn(u64, u64, u64) -> u64),
    /// Lanes compared: to a mask register, or to lanes of ones and zeros.
    Compare(usize, fn(u64, u64, u8) -> bool),
    /// Everything else.
    Other(fn(&mut Cpu, &Step)),
}

/// A decoded instruction.
#[derive(Clone, Copy)]
struct Step {
    i: Instruction,
    op: Op,
    /// VEX or EVEX: three operands, and the rest of the destination becomes zero.
    wide: bool,
    /// Computes floats.
    float: bool,
    /// Bytes of its longest vector register.
    bytes: usize,
}

/// The five flags that code looks at.
#[derive(Clone, Copy, Default)]
struct Flags {
    carry: bool,
    zero: bool,
    sign: bool,
    overflow: bool,
    parity: bool,
}

/// What CPUID and XGETBV answer.
#[derive(Clone, Copy, Default)]
pub struct Answers {
    /// Highest basic leaf.
    pub highest: u32,
    /// ECX of leaf 1, of leaf 0x80000001.
    pub leaf1_ecx: u32,
    pub extended_ecx: u32,
    /// EBX and ECX of leaf 7; EAX of its subleaf 1.
    pub leaf7_ebx: u32,
    pub leaf7_ecx: u32,
    pub leaf7_1_eax: u32,
    /// XCR0.
    pub xcr0: u32,
}

/// Round to nearest, no flushing, exceptions masked: what compiled code computes floats with.
const NEAREST: u32 = 0x1f80;
/// Where the outermost function returns to.
const HOME: u64 = 0xdead_0000_0000;
const STACK: usize = 1 << 18;
/// Stack arguments passed to functions that run natively.
const STACK_ARGUMENTS: usize = 6;

/// The state of the CPU.
pub struct Cpu {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    registers: [u64; 16],
    vectors: [Vector; 32],
    masks: [u64; 8],
    flags: Flags,
    mxcsr: u32,
    ip: u64,
    stack: Vec<u128>,
    blocks: HashMap<u64, Rc<[Step]>>,
    native: HashMap<u64, bool>,
    everything: bool,
    answers: Answers,
    /// Instructions emulated.
    pub count: u64,
    /// Functions called natively.
    pub calls: u64,
}

impl Cpu {
    /// A CPU that emulates what this machine cannot run, or `everything`.
    pub fn new(everything: bool) -> Self {
        Self {
            registers: [0; 16],
            vectors: [[0xa5; 64]; 32],
            masks: [0; 8],
            flags: Flags::default(),
            mxcsr: NEAREST,
            ip: 0,
            stack: vec![0; STACK / 16],
            blocks: HashMap::new(),
            native: HashMap::new(),
            everything,
            answers: Answers::default(),
            count: 0,
            calls: 0,
        }
    }

    /// The same CPU, which answers questions about itself like this.
    pub fn answering(self, answers: Answers) -> Self {
        Self { answers, ..self }
    }

    /// Calls a function in the System V convention with up to six arguments and returns RAX.
    pub fn call(&mut self, function: usize, arguments: &[u64]) -> u64 {
        let caller = control();
        self.mxcsr = caller;
        set_control(NEAREST);
        for (argument, register) in arguments.iter().zip([7, 6, 2, 1, 8, 9]) {
            self.registers[register] = *argument;
        }
        let saved = [3, 5, 12, 13, 14, 15].map(|r| (r, 0x5afe_0000 + r as u64));
        saved.iter().for_each(|(r, v)| self.registers[*r] = *v);
        self.registers[4] = self.stack.as_ptr() as u64 + STACK as u64 - 1024;
        let top = self.registers[4];
        self.push(HOME);
        self.ip = function as u64;
        self.run();
        set_control(caller);
        assert_eq!(self.registers[4], top, "the stack pointer moved");
        assert!(saved.iter().all(|(r, v)| self.registers[*r] == *v), "a register of the caller changed");
        assert_eq!(self.mxcsr & !0x3f, caller & !0x3f, "the rounding mode of the caller changed");
        self.registers[0]
    }

    fn run(&mut self) {
        while self.ip != HOME {
            let block = match self.blocks.get(&self.ip) {
                Some(block) => block.clone(),
                None => {
                    let block: Rc<[Step]> = block(self.ip).into();
                    self.blocks.insert(self.ip, block.clone());
                    block
                }
            };
            for step in block.iter() {
                self.ip = step.i.next_ip();
                if step.float {
                    self.nearest();
                }
                self.step(step);
            }
            self.count += block.len() as u64;
        }
    }

    fn step(&mut self, s: &Step) {
        match s.op {
            Op::Other(f) => f(self, s),
            Op::Lanes1(w, f) => {
                let a = self.source(s, 1, s.bytes, w);
                let value = lanes(s.bytes, w, |i| f(lane(&a, i, w)));
                self.result(s, &value, s.bytes, w);
            }
            Op::Lanes2(w, f) => {
                let [a, b] = self.two(s, s.bytes, w);
                let value = lanes(s.bytes, w, |i| f(lane(&a, i, w), lane(&b, i, w)));
                self.result(s, &value, s.bytes, w);
            }
            Op::Lanes3(w, f) => {
                let (d, a, b) = (self.source(s, 0, s.bytes, w), self.source(s, 1, s.bytes, w), self.source(s, 2, s.bytes, w));
                let value = lanes(s.bytes, w, |i| f(lane(&d, i, w), lane(&a, i, w), lane(&b, i, w)));
                self.result(s, &value, s.bytes, w);
            }
            Op::Lowest1(w, f) => {
                let [mut a, b] = self.two(s, w, w);
                a[..w].copy_from_slice(&f(lane(&b, 0, w)).to_le_bytes()[..w]);
                self.lowest(s, &a);
            }
            Op::Lowest2(w, f) => {
                let [mut a, b] = self.two(s, w, w);
                let value = f(lane(&a, 0, w), lane(&b, 0, w));
                a[..w].copy_from_slice(&value.to_le_bytes()[..w]);
                self.lowest(s, &a);
            }
            Op::Lowest3(w, f) => {
                let (mut d, a, b) = (self.source(s, 0, w, w), self.source(s, 1, w, w), self.source(s, 2, w, w));
                let value = f(lane(&d, 0, w), lane(&a, 0, w), lane(&b, 0, w));
                d[..w].copy_from_slice(&value.to_le_bytes()[..w]);
                self.lowest(s, &d);
            }
            Op::Compare(w, f) => self.compare(s, w, f),
        }
    }

    fn lowest(&mut self, s: &Step, value: &Vector) {
        assert!(s.i.op_mask() == Register::None, "masked: {:?}", s.i.code());
        self.result(s, value, 16, 16);
    }

    fn compare(&mut self, s: &Step, w: usize, f: fn(u64, u64, u8) -> bool) {
        let immediate = immediate(s).unwrap_or(0);
        let to_mask = k_number(s.i.op0_register()).is_some();
        let bytes = s.bytes;
        let [a, b] = if to_mask { [self.source(s, 1, bytes, w), self.source(s, 2, bytes, w)] } else { self.two(s, bytes, w) };
        let holds = |i: usize| f(lane(&a, i, w), lane(&b, i, w), immediate);
        if to_mask {
            let chosen = self.chosen(s);
            let k = (0..bytes / w).filter(|&i| holds(i) && chosen >> i & 1 == 1).fold(0, |k, i| k | 1 << i);
            self.set_k(s.i.op0_register(), k);
        } else {
            let value = lanes(bytes, w, |i| if holds(i) { u64::MAX } else { 0 });
            self.result(s, &value, bytes, w);
        }
    }

    /// The two vector sources: operands 1 and 2, or 0 and 1 of an instruction that overwrites the first.
    fn two(&mut self, s: &Step, bytes: usize, w: usize) -> [Vector; 2] {
        let first = if vector_operands(&s.i) == 3 { 1 } else { 0 };
        [self.source(s, first, bytes, w), self.source(s, first + 1, bytes, w)]
    }

    /// A vector operand. Of memory `bytes` are read; lanes of `w` bytes that a mask leaves out are not.
    fn source(&mut self, s: &Step, operand: u32, bytes: usize, w: usize) -> Vector {
        if s.i.op_kind(operand) == OpKind::Register {
            let register = s.i.op_register(operand);
            return self.vectors[vector_number(register).unwrap_or_else(|| panic!("{register:?} of {:?}", s.i.code()))];
        }
        let address = self.address(&s.i);
        let mut value = [0; 64];
        if s.i.is_broadcast() {
            let one = read(address, w);
            (0..bytes).step_by(w).for_each(|at| value[at..at + w].copy_from_slice(&one[..w]));
        } else if s.i.op_mask() != Register::None {
            let chosen = self.chosen(s);
            for i in (0..bytes / w).filter(|i| chosen >> i & 1 == 1) {
                value[i * w..][..w].copy_from_slice(&read(address + (i * w) as u64, w)[..w]);
            }
        } else {
            let loads = matches!(s.op, Op::Other(_));
            assert!(s.wide || loads || bytes < 16 || address.is_multiple_of(16), "an operand of {:?} is not aligned", s.i.code());
            value = read(address, bytes);
        }
        value
    }

    /// Lanes that the mask of an instruction chooses.
    fn chosen(&self, s: &Step) -> u64 {
        k_number(s.i.op_mask()).map_or(u64::MAX, |k| self.masks[k])
    }

    /// Stores `bytes` of a result in operand 0, by lanes of `w` bytes where there is a mask.
    fn result(&mut self, s: &Step, value: &Vector, bytes: usize, w: usize) {
        assert!(s.i.rounding_control() == RoundingControl::None, "a rounding mode of its own: {:?}", s.i.code());
        let chosen = self.chosen(s);
        let masked = s.i.op_mask() != Register::None;
        let lane_chosen = |at: usize| !masked || chosen >> (at / w) & 1 == 1;
        if s.i.op0_kind() == OpKind::Register {
            let register = &mut self.vectors[vector_number(s.i.op0_register()).unwrap_or_else(|| panic!("{:?}", s.i.code()))];
            for at in (0..bytes).step_by(w) {
                if lane_chosen(at) {
                    register[at..at + w].copy_from_slice(&value[at..at + w]);
                } else if s.i.zeroing_masking() {
                    register[at..at + w].fill(0);
                }
            }
            if s.wide {
                register[bytes..].fill(0);
            }
        } else {
            let address = self.address(&s.i);
            if masked {
                (0..bytes).step_by(w).filter(|&at| lane_chosen(at)).for_each(|at| write(address + at as u64, &value[at..at + w]));
            } else {
                write(address, &value[..bytes]);
            }
        }
    }

    /// The address of the memory operand.
    fn address(&self, i: &Instruction) -> u64 {
        let displacement = i.memory_displacement64();
        if i.memory_base() == Register::RIP {
            return displacement;
        }
        let part = |r: Register| if r == Register::None { 0 } else { self.registers[whole(r)] };
        displacement
            .wrapping_add(part(i.memory_base()))
            .wrapping_add(part(i.memory_index()).wrapping_mul(u64::from(i.memory_index_scale())))
    }

    fn k(&self, register: Register) -> u64 {
        self.masks[k_number(register).unwrap_or_else(|| panic!("{register:?} is no mask"))]
    }

    fn set_k(&mut self, register: Register, value: u64) {
        self.masks[k_number(register).unwrap_or_else(|| panic!("{register:?} is no mask"))] = value;
    }

    fn push(&mut self, value: u64) {
        self.registers[4] -= 8;
        write(self.registers[4], &value.to_le_bytes());
    }

    fn pop(&mut self) -> u64 {
        let value = lane(&read(self.registers[4], 8), 0, 8);
        self.registers[4] += 8;
        value
    }

    /// A direct or indirect call.
    fn enter(&mut self, function: u64) {
        if self.runs_natively(function) {
            return self.call_natively(function);
        }
        assert!(self.registers[4].is_multiple_of(16), "the stack is not aligned at a call");
        self.push(self.ip);
        self.ip = function;
    }

    fn call_natively(&mut self, function: u64) {
        let r = self.registers;
        let s: [u64; STACK_ARGUMENTS] = std::array::from_fn(|i| lane(&read(r[4] + 8 * i as u64, 8), 0, 8));
        type Function = unsafe extern "sysv64" fn(u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64) -> u64;
        // SAFETY: compiled code in the System V convention whose instructions this machine has; it ignores stack
        // arguments beyond its own.
        let function: Function = unsafe { std::mem::transmute(function as usize) };
        set_control(self.mxcsr);
        // SAFETY: as above; the arguments are those that the emulated caller passes.
        let result = unsafe { function(r[7], r[6], r[2], r[1], r[8], r[9], s[0], s[1], s[2], s[3], s[4], s[5]) };
        set_control(NEAREST);
        // What a callee may overwrite is overwritten, so that nobody relies on it.
        [1, 2, 6, 7, 8, 9, 10, 11].iter().for_each(|&r: &usize| self.registers[r] = 0xbad0_bad0_bad0);
        self.vectors = [[0xbd; 64]; 32];
        self.registers[0] = result;
        self.calls += 1;
    }

    /// Whether a function consists of instructions that this machine has and calls no other.
    fn runs_natively(&mut self, function: u64) -> bool {
        if self.everything {
            return false;
        }
        if let Some(known) = self.native.get(&function) {
            return *known;
        }
        let runs = here(function);
        self.native.insert(function, runs);
        runs
    }
}

/// Whether this machine has every instruction that can be reached from `function`, and all of them stay in it.
fn here(function: u64) -> bool {
    let (mut open, mut seen) = (vec![function], std::collections::HashSet::new());
    while let Some(mut ip) = open.pop() {
        while seen.insert(ip) {
            let i = decode(ip);
            if !has(&i) {
                return false;
            }
            let branch = i.op_count() > 0 && i.op0_kind() == OpKind::NearBranch64;
            match i.mnemonic() {
                Mnemonic::Ret => break,
                Mnemonic::Call | Mnemonic::Cpuid | Mnemonic::Xgetbv | Mnemonic::Ldmxcsr => return false,
                Mnemonic::Jmp if branch => {
                    ip = i.near_branch_target();
                    continue;
                }
                Mnemonic::Jmp => return false,
                _ if branch => open.push(i.near_branch_target()),
                _ => {}
            }
            ip = i.next_ip();
        }
    }
    true
}

/// Whether this machine has an instruction, as far as vectors are concerned.
fn has(i: &Instruction) -> bool {
    use std::arch::is_x86_feature_detected as detected;
    let code = format!("{:?}", i.code());
    if code.starts_with("EVEX") || code.starts_with("VEX_K") {
        return detected!("avx512vnni") && detected!("avx512vbmi") && detected!("avx512bw") && detected!("avx512vl");
    }
    if code.starts_with("VEX_Vpdp") {
        return detected!("avxvnni");
    }
    !code.starts_with("VEX") || detected!("avx2") && detected!("fma") && detected!("bmi2")
}

/// The instructions from `ip` up to the first that may go elsewhere.
fn block(mut ip: u64) -> Vec<Step> {
    let mut steps = Vec::new();
    loop {
        let i = decode(ip);
        let code = format!("{:?}", i.code());
        let wide = code.starts_with("VEX") || code.starts_with("EVEX");
        let name = format!("{:?}", i.mnemonic()).to_lowercase();
        let base = if wide { name.strip_prefix('v').unwrap_or(&name) } else { &name };
        let op = vector::find(base, wide).or_else(|| moves::find(base)).or_else(|| scalar::find(base));
        let op = op.unwrap_or_else(|| panic!("no emulation of {name} ({code})"));
        let bytes = (0..i.op_count()).filter_map(|n| vector_bytes(i.op_register(n))).max().unwrap_or(0);
        let float = ["ps", "ss", "pd", "sd"].iter().any(|end| base.ends_with(end)) || base.starts_with("cvt");
        steps.push(Step { i, op, wide, float, bytes });
        let goes = (i.op_count() > 0 && i.op0_kind() == OpKind::NearBranch64)
            || matches!(i.mnemonic(), Mnemonic::Ret | Mnemonic::Jmp | Mnemonic::Call);
        if goes {
            return steps;
        }
        ip = i.next_ip();
    }
}

fn decode(ip: u64) -> Instruction {
    // SAFETY: code of the process; the fifteen bytes of the longest instruction lie in the region reserved for code.
    let bytes = unsafe { std::slice::from_raw_parts(ip as *const u8, 15) };
    let i = Decoder::with_ip(64, bytes, ip, DecoderOptions::NONE).decode();
    assert!(!i.is_invalid(), "no instruction: {bytes:02x?}");
    i
}

/// The floating-point control register of this thread.
fn control() -> u32 {
    let mut value = 0u32;
    // SAFETY: stores the register.
    unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &mut value) };
    value
}

fn set_control(value: u32) {
    // SAFETY: while a strange mode is set only compiled code runs.
    unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &value) };
}

/// `bytes` of memory.
fn read(address: u64, bytes: usize) -> Vector {
    let mut value = [0; 64];
    // SAFETY: an address of the code under test; one that is not readable faults, as on a CPU.
    unsafe { std::ptr::copy_nonoverlapping(address as *const u8, value.as_mut_ptr(), bytes) };
    value
}

fn write(address: u64, bytes: &[u8]) {
    // SAFETY: as in `read`.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) };
}

/// Lane `i` of `w` bytes, zero-extended.
fn lane(v: &Vector, i: usize, w: usize) -> u64 {
    match w {
        1 => u64::from(v[i]),
        2 => u64::from(u16::from_le_bytes([v[2 * i], v[2 * i + 1]])),
        4 => u64::from(u32::from_le_bytes(std::array::from_fn(|k| v[4 * i + k]))),
        8 => u64::from_le_bytes(std::array::from_fn(|k| v[8 * i + k])),
        _ => panic!("lanes of {w} bytes"),
    }
}

/// A vector from the low `w` bytes of what `f` gives for each lane.
fn lanes(bytes: usize, w: usize, f: impl Fn(usize) -> u64) -> Vector {
    let mut value = [0; 64];
    for i in 0..bytes / w {
        value[i * w..][..w].copy_from_slice(&f(i).to_le_bytes()[..w]);
    }
    value
}

/// The last operand where it is an immediate byte.
fn immediate(s: &Step) -> Option<u8> {
    let last = s.i.op_count().checked_sub(1)?;
    (s.i.op_kind(last) == OpKind::Immediate8).then(|| s.i.immediate8())
}

/// Operands that are not immediates.
fn vector_operands(i: &Instruction) -> u32 {
    (0..i.op_count()).filter(|&n| i.op_kind(n) != OpKind::Immediate8).count() as u32
}

fn offset(register: Register, first: Register, count: usize) -> Option<usize> {
    (register as usize).checked_sub(first as usize).filter(|n| *n < count)
}

fn vector_number(r: Register) -> Option<usize> {
    [Register::XMM0, Register::YMM0, Register::ZMM0].into_iter().find_map(|first| offset(r, first, 32))
}

fn vector_bytes(r: Register) -> Option<usize> {
    [(Register::XMM0, 16), (Register::YMM0, 32), (Register::ZMM0, 64)].into_iter().find_map(|(f, n)| offset(r, f, 32).map(|_| n))
}

fn k_number(r: Register) -> Option<usize> {
    offset(r, Register::K0, 8)
}

/// The number of the general register that `r` is a part of.
fn whole(r: Register) -> usize {
    let low = [Register::RAX, Register::EAX, Register::AX].into_iter().find_map(|first| offset(r, first, 16));
    // AL, CL, DL, BL, AH, CH, DH, BH, SPL, BPL, SIL, DIL, R8L to R15L.
    low.or_else(|| offset(r, Register::AL, 20).map(|n| if n < 4 { n } else { n - 4 })).unwrap_or_else(|| panic!("{r:?} is no register"))
}
