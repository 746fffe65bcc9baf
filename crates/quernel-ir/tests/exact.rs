//! The exact arithmetic against numbers that were computed elsewhere: every function, every bound, every tie. Nothing of
//! `exact.rs` can change its meaning without failing here.

use quernel_ir::{
    Binary, Multiplier, Unary,
    exact::{
        accumulator_scale, average, average_multiplier, binary, binary_quantized, byte_table, clamp_bounds, clip, dequantize, max_first,
        min_first, multiplier, quantize, quantize_bias, requantize, requantize_entry, residual_factor, scale_to_float, softmax_factor,
        softmax_quantized, softmax_table, unary_entry, unary_f64,
    },
};

/// Function, argument, value by the C library of another language.
#[rustfmt::skip]
const FUNCTIONS: &[(Unary, f64, f64)] = &[
    (Unary::Relu, -1.7, 0.0),
    (Unary::Relu, -0.3, 0.0),
    (Unary::Relu, 0.4, 0.4),
    (Unary::Relu, 2.3, 2.3),
    (Unary::LeakyRelu { alpha: 0.1 }, -1.7, -0.1700000025331974),
    (Unary::LeakyRelu { alpha: 0.1 }, -0.3, -0.030000000447034835),
    (Unary::LeakyRelu { alpha: 0.1 }, 0.4, 0.4),
    (Unary::LeakyRelu { alpha: 0.1 }, 2.3, 2.3),
    (Unary::Clip { lo: -0.5, hi: 1.25 }, -1.7, -0.5),
    (Unary::Clip { lo: -0.5, hi: 1.25 }, -0.3, -0.3),
    (Unary::Clip { lo: -0.5, hi: 1.25 }, 0.4, 0.4),
    (Unary::Clip { lo: -0.5, hi: 1.25 }, 2.3, 1.25),
    (Unary::Sigmoid, -1.7, 0.1544652650835347),
    (Unary::Sigmoid, -0.3, 0.425557483188341),
    (Unary::Sigmoid, 0.4, 0.598687660112452),
    (Unary::Sigmoid, 2.3, 0.9088770389851438),
    (Unary::Tanh, -1.7, -0.935409070603099),
    (Unary::Tanh, -0.3, -0.2913126124515909),
    (Unary::Tanh, 0.4, 0.3799489622552249),
    (Unary::Tanh, 2.3, 0.9800963962661914),
    (Unary::HardSigmoid { alpha: 0.25, beta: 0.375 }, -1.7, 0.0),
    (Unary::HardSigmoid { alpha: 0.25, beta: 0.375 }, -0.3, 0.3),
    (Unary::HardSigmoid { alpha: 0.25, beta: 0.375 }, 0.4, 0.475),
    (Unary::HardSigmoid { alpha: 0.25, beta: 0.375 }, 2.3, 0.95),
    (Unary::HardSigmoid { alpha: 0.25, beta: 0.375 }, 3.5, 1.0),
    (Unary::HardSwish, -1.7, -0.36833333333333335),
    (Unary::HardSwish, -0.3, -0.135),
    (Unary::HardSwish, 0.4, 0.22666666666666668),
    (Unary::HardSwish, 2.3, 2.0316666666666663),
    (Unary::HardSwish, -4.0, -0.0),
    (Unary::HardSwish, 4.0, 4.0),
    (Unary::Swish { alpha: 1.5 }, -1.7, -0.12312502511458014),
    (Unary::Swish { alpha: 1.5 }, -0.3, -0.1168082298152334),
    (Unary::Swish { alpha: 1.5 }, 0.4, 0.25826252249031817),
    (Unary::Swish { alpha: 1.5 }, 2.3, 2.2292316234785594),
    (Unary::Gelu, -1.7, -0.0757612866895232),
    (Unary::Gelu, -0.3, -0.1146265733433142),
    (Unary::Gelu, 0.4, 0.2621686966441297),
    (Unary::Gelu, 2.3, 2.2753345469501456),
    (Unary::GeluTanh, -1.7, -0.07589410444884379),
    (Unary::GeluTanh, -0.3, -0.11462907645724074),
    (Unary::GeluTanh, 0.4, 0.2621611694273562),
    (Unary::GeluTanh, 2.3, 2.2756729702040808),
    (Unary::Erf, -1.7, -0.9837904585907745),
    (Unary::Erf, -0.3, -0.3286267594591274),
    (Unary::Erf, 0.4, 0.42839235504666845),
    (Unary::Erf, 2.3, 0.9988568234026434),
    (Unary::Exp, -1.7, 0.18268352405273466),
    (Unary::Exp, -0.3, 0.7408182206817179),
    (Unary::Exp, 0.4, 1.4918246976412703),
    (Unary::Exp, 2.3, 9.974182454814718),
    (Unary::Log, 0.4, -0.916290731874155),
    (Unary::Log, 2.3, 0.8329091229351039),
    (Unary::Sqrt, 0.4, 0.6324555320336759),
    (Unary::Sqrt, 2.3, 1.51657508881031),
    (Unary::Reciprocal, -1.7, -0.5882352941176471),
    (Unary::Reciprocal, -0.3, -3.3333333333333335),
    (Unary::Reciprocal, 0.4, 2.5),
    (Unary::Reciprocal, 2.3, 0.4347826086956522),
    (Unary::Neg, -1.7, 1.7),
    (Unary::Neg, -0.3, 0.3),
    (Unary::Neg, 0.4, -0.4),
    (Unary::Neg, 2.3, -2.3),
    (Unary::Abs, -1.7, 1.7),
    (Unary::Abs, -0.3, 0.3),
    (Unary::Abs, 0.4, 0.4),
    (Unary::Abs, 2.3, 2.3),
    (Unary::Floor, -1.7, -2.0),
    (Unary::Floor, -0.3, -1.0),
    (Unary::Floor, 0.4, 0.0),
    (Unary::Floor, 2.3, 2.0),
    (Unary::Ceil, -1.7, -1.0),
    (Unary::Ceil, -0.3, 0.0),
    (Unary::Ceil, 0.4, 1.0),
    (Unary::Ceil, 2.3, 3.0),
    (Unary::Round, -1.7, -2.0),
    (Unary::Round, -0.3, 0.0),
    (Unary::Round, 0.4, 0.0),
    (Unary::Round, 2.3, 2.0),
    (Unary::Round, 2.5, 2.0),
    (Unary::Round, 3.5, 4.0),
    (Unary::Sign, -1.7, -1.0),
    (Unary::Sign, -0.3, -1.0),
    (Unary::Sign, 0.4, 1.0),
    (Unary::Sign, 2.3, 1.0),
    (Unary::Sin, -1.7, -0.9916648104524686),
    (Unary::Sin, -0.3, -0.29552020666133955),
    (Unary::Sin, 0.4, 0.3894183423086505),
    (Unary::Sin, 2.3, 0.7457052121767203),
    (Unary::Cos, -1.7, -0.12884449429552464),
    (Unary::Cos, -0.3, 0.955336489125606),
    (Unary::Cos, 0.4, 0.9210609940028851),
    (Unary::Cos, 2.3, -0.6662760212798241),
    (Unary::Tan, -1.7, 7.696602139459161),
    (Unary::Tan, -0.3, -0.30933624960962325),
    (Unary::Tan, 0.4, 0.4227932187381618),
    (Unary::Tan, 2.3, -1.1192136417341325),
    (Unary::Asin, -0.7, -0.775397496610753),
    (Unary::Asin, 0.4, 0.41151684606748806),
    (Unary::Acos, -0.7, 2.3461938234056494),
    (Unary::Acos, 0.4, 1.1592794807274085),
    (Unary::Atan, -1.7, -1.039072259536091),
    (Unary::Atan, -0.3, -0.2914567944778671),
    (Unary::Atan, 0.4, 0.3805063771123649),
    (Unary::Atan, 2.3, 1.1606689862534056),
    (Unary::Sinh, -1.7, -2.6456319338372323),
    (Unary::Sinh, -0.3, -0.3045202934471426),
    (Unary::Sinh, 0.4, 0.4107523258028155),
    (Unary::Sinh, 2.3, 4.936961805545957),
    (Unary::Cosh, -1.7, 2.828315457889967),
    (Unary::Cosh, -0.3, 1.0453385141288605),
    (Unary::Cosh, 0.4, 1.081072371838455),
    (Unary::Cosh, 2.3, 5.037220649268761),
    (Unary::Asinh, -1.7, -1.3008204268406467),
    (Unary::Asinh, -0.3, -0.29567304756342244),
    (Unary::Asinh, 0.4, 0.39003531977071526),
    (Unary::Asinh, 2.3, 1.570278543484978),
    (Unary::Acosh, 2.3, 1.4750447812414251),
    (Unary::Atanh, -0.7, -0.8673005276940531),
    (Unary::Atanh, 0.4, 0.42364893019360184),
    (Unary::Elu { alpha: 1.25, beta: 0.75, gamma: 1.5 }, -1.7, -1.3510669345848612),
    (Unary::Elu { alpha: 1.25, beta: 0.75, gamma: 1.5 }, -0.3, -0.377782089826168),
    (Unary::Elu { alpha: 1.25, beta: 0.75, gamma: 1.5 }, 0.4, 0.6000000000000001),
    (Unary::Elu { alpha: 1.25, beta: 0.75, gamma: 1.5 }, 2.3, 3.4499999999999997),
    (Unary::Softplus, -1.7, 0.16778602938626594),
    (Unary::Softplus, -0.3, 0.5543552444685271),
    (Unary::Softplus, 0.4, 0.9130152523999526),
    (Unary::Softplus, 2.3, 2.3955454645979626),
    (Unary::Softsign, -1.7, -0.6296296296296295),
    (Unary::Softsign, -0.3, -0.23076923076923075),
    (Unary::Softsign, 0.4, 0.28571428571428575),
    (Unary::Softsign, 2.3, 0.6969696969696969),
    (Unary::Mish, -1.7, -0.2825893806039154),
    (Unary::Mish, -0.3, -0.15113317713833455),
    (Unary::Mish, 0.4, 0.2890305340723631),
    (Unary::Mish, 2.3, 2.2621189289480705),
    (Unary::ThresholdedRelu { alpha: 0.5 }, -1.7, 0.0),
    (Unary::ThresholdedRelu { alpha: 0.5 }, -0.3, 0.0),
    (Unary::ThresholdedRelu { alpha: 0.5 }, 0.4, 0.0),
    (Unary::ThresholdedRelu { alpha: 0.5 }, 2.3, 2.3),
    (Unary::ThresholdedRelu { alpha: 0.5 }, 0.5, 0.0),
    (Unary::Shrink { lambda: 0.5, bias: 0.25 }, -1.7, -1.45),
    (Unary::Shrink { lambda: 0.5, bias: 0.25 }, -0.3, 0.0),
    (Unary::Shrink { lambda: 0.5, bias: 0.25 }, 0.4, 0.0),
    (Unary::Shrink { lambda: 0.5, bias: 0.25 }, 2.3, 2.05),
    (Unary::Shrink { lambda: 0.5, bias: 0.25 }, 0.5, 0.0),
    (Unary::Shrink { lambda: 0.5, bias: 0.25 }, -0.5, 0.0),
];

#[test]
fn functions_of_one_element() {
    for &(f, x, want) in FUNCTIONS {
        let got = unary_f64(f, x);
        assert!((got - want).abs() <= 1e-13 * want.abs(), "{f:?} of {x} is {got} instead of {want}");
    }
}

fn bits(x: f64) -> u64 {
    x.to_bits()
}

#[test]
fn functions_at_their_seams() {
    assert_eq!(bits(unary_f64(Unary::LeakyRelu { alpha: -1.0 }, 0.0)), bits(0.0));
    assert_eq!(bits(unary_f64(Unary::Elu { alpha: -1.0, beta: 1.0, gamma: 1.0 }, 0.0)), bits(-0.0));
    assert_eq!(bits(unary_f64(Unary::Sign, 0.0)), bits(0.0));
    assert_eq!(bits(unary_f64(Unary::Sign, -0.0)), bits(-0.0));
    assert!(unary_f64(Unary::Sign, f64::NAN).is_nan());
    assert_eq!(bits(unary_f64(Unary::Neg, 0.0)), bits(-0.0));
}

#[test]
fn first_operands() {
    let both = |a: f32, b: f32| (max_first(a, b).to_bits(), min_first(a, b).to_bits());
    let of = |a: f32, b: f32| (a.to_bits(), b.to_bits());
    assert_eq!(both(1.0, 2.0), of(2.0, 1.0));
    assert_eq!(both(2.0, 1.0), of(2.0, 1.0));
    // Equal numbers and what is none: the second.
    assert_eq!(both(0.0, -0.0), of(-0.0, -0.0));
    assert_eq!(both(-0.0, 0.0), of(0.0, 0.0));
    assert_eq!(both(f32::NAN, 3.0), of(3.0, 3.0));
    assert!(max_first(3.0, f32::NAN).is_nan() && min_first(3.0, f32::NAN).is_nan());
    assert_eq!((clip(5.0, -1.0, 2.0), clip(-5.0, -1.0, 2.0), clip(1.5, -1.0, 2.0), clip(f32::NAN, -1.0, 2.0)), (2.0, -1.0, 1.5, -1.0));
}

#[test]
fn requantization() {
    let table: &[(i32, f32, i32, i32, i32, i32)] = &[
        (10, 0.25, 3, 0, 255, 5), // 2.5 is a tie
        (14, 0.25, 3, 0, 255, 7), // so is 3.5
        (-10, 0.25, 3, 0, 255, 1),
        (11, 0.25, 3, 0, 255, 6),
        (1000, 1.0, 3, 0, 255, 255),
        (-1000, 1.0, 3, 0, 255, 0),
        (1000, 1.0, -5, -128, 100, 100),
        (-1000, 1.0, -5, -120, 100, -120),
        (i32::MAX, 255.0, 7, 0, 255, 255),
        (i32::MIN, 255.0, 7, 0, 255, 0),
    ];
    for &(acc, m, zero, lo, hi, want) in table {
        assert_eq!(requantize(acc, m, zero, lo, hi), want, "{acc} {m} {zero}");
    }
    assert_eq!(scale_to_float(6, 0.5, -10.0, 10.0), 3.0);
    assert_eq!((scale_to_float(60, 0.5, -10.0, 10.0), scale_to_float(-60, 0.5, -10.0, 10.0)), (10.0, -10.0));
    assert_eq!((multiplier(Multiplier::F64, 3.0, 5.0, 2.0), multiplier(Multiplier::F32, 3.0, 5.0, 2.0)), (7.5, 7.5));
    assert_eq!((accumulator_scale(Multiplier::F64, 3.0, 5.0), accumulator_scale(Multiplier::F32, 3.0, 5.0)), (15.0, 15.0));
    // The product leaves f32 in between, but not f64.
    assert_eq!((multiplier(Multiplier::F64, 1e-30, 1e-30, 1e-30), multiplier(Multiplier::F32, 1e-30, 1e-30, 1e-30)), (1e-30, 0.0));
}

#[test]
fn quantization() {
    let table: &[(f32, f32, i32, i32)] =
        &[(1.25, 0.5, 10, 12), (1.75, 0.5, 10, 14), (-1.25, 0.5, 10, 8), (1e9, 0.5, 10, 255), (-1e9, 0.5, 10, 0), (f32::NAN, 0.5, 10, 0)];
    for &(x, scale, zero, want) in table {
        assert_eq!(quantize(x, scale, zero, 0, 255), want, "{x}");
    }
    assert_eq!((dequantize(13, 0.5, 10), dequantize(7, 0.5, 10), dequantize(-128, 2.0, -127)), (1.5, -1.5, -2.0));
    let strict = |op| binary_quantized(op, (20, (0.5, 4)), (9, (0.25, 1)), (0.125, 3), 0, 255);
    // 8 and 2 by 1/8, and 3.
    assert_eq!([Binary::Add, Binary::Sub, Binary::Mul, Binary::Div, Binary::Min, Binary::Max].map(strict), [83, 51, 131, 35, 19, 67]);
    assert_eq!(binary_quantized(Binary::Mul, (255, (1.0, 0)), (255, (1.0, 0)), (1.0, 0), 0, 255), 255);
}

#[test]
fn functions_of_two_elements() {
    let all = [Binary::Add, Binary::Sub, Binary::Mul, Binary::Div, Binary::Min, Binary::Max, Binary::Pow];
    assert_eq!(all.map(|op| binary(op, 8.0, 2.0)), [10.0, 6.0, 16.0, 4.0, 2.0, 8.0, 64.0]);
    // The remainder has the sign of the dividend, the modulus that of the divisor.
    assert_eq!((binary(Binary::Remainder, -7.0, 3.0), binary(Binary::Modulo, -7.0, 3.0)), (-1.0, 2.0));
    for op in [Binary::And, Binary::Or, Binary::Xor, Binary::ShiftLeft, Binary::ShiftRight] {
        assert!(binary(op, 8.0, 2.0).is_nan(), "{op:?}");
    }
}

#[test]
fn biases_and_residuals_at_their_bounds() {
    assert_eq!(quantize_bias(3.0, 0.5, 0.25), Some(24));
    assert_eq!((quantize_bias(2.5, 1.0, 1.0), quantize_bias(3.5, 1.0, 1.0), quantize_bias(-2.5, 1.0, 1.0)), (Some(2), Some(4), Some(-2)));
    assert_eq!(quantize_bias(-2_147_483_648.0, 1.0, 1.0), Some(i32::MIN));
    assert_eq!(quantize_bias(-2_147_483_904.0, 1.0, 1.0), None);
    assert_eq!(quantize_bias(2_147_483_648.0, 1.0, 1.0), None);
    // Rounds to 2^31 - 1.
    let (b, sx, sw) = (f32::from_bits(0x4e79_1abe), f32::from_bits(0x3f6a_6737), f32::from_bits(0x3f08_0724));
    assert_eq!(quantize_bias(b, sx, sw), Some(i32::MAX));
    assert_eq!((quantize_bias(f32::NAN, 1.0, 1.0), quantize_bias(1.0, 0.0, 1.0)), (None, None));

    assert_eq!(residual_factor(6.0, 0.5, 4.0), Some(3));
    assert_eq!((residual_factor(1.0, 1.0, 1.0), residual_factor(0.5, 1.0, 1.0), residual_factor(0.75, 1.0, 1.0)), (Some(1), None, Some(1)));
    assert_eq!((residual_factor(32767.0, 1.0, 1.0), residual_factor(32768.0, 1.0, 1.0)), (Some(32767), None));
    assert_eq!(quernel_ir::exact::MAX_RESIDUAL, 32767);
    assert_eq!((quernel_ir::exact::MIN_MULTIPLIER, quernel_ir::exact::MAX_MULTIPLIER), (2f32.powi(-32), 256.0));
}

#[test]
fn bounds_of_activations() {
    let (inf, of) = (f32::INFINITY, |a, b| clamp_bounds(a, b, 0.5, 10, 0, 255));
    assert_eq!((of(-inf, inf), of(0.0, inf), of(-inf, 3.0), of(-1.0, 3.0)), ((0, 255), (10, 255), (0, 16), (8, 16)));
    assert_eq!((of(-1e9, 1e9), of(1e9, 1e10)), ((0, 255), (255, 255)));
    // Bounds that cross leave the lower one.
    assert_eq!(of(3.0, -1.0), (16, 16));
    assert_eq!((of(inf, inf), of(-inf, -inf)), ((255, 255), (0, 0)));
}

#[test]
fn averages() {
    // Equal scales: ties to even, then the zero point, then the type.
    assert_eq!((average(5, 2, 0.5, 0.5, 3, 0, 255), average(7, 2, 0.5, 0.5, 3, 0, 255), average(-5, 2, 0.5, 0.5, 3, 0, 255)), (5, 7, 1));
    assert_eq!((average(2000, 2, 0.5, 0.5, 3, 0, 255), average(-2000, 2, 0.5, 0.5, 3, 0, 255)), (255, 0));
    assert_eq!((average(60, 4, 0.5, 0.25, 3, 0, 255), average(-60, 4, 0.5, 2.0, 100, 0, 255)), (33, 96));
    assert_eq!((average_multiplier(4, 0.5, 0.25), average_multiplier(5, 3.0, 2.0)), (0.5, 0.3));
}

#[test]
fn tables() {
    assert_eq!(unary_entry(Unary::Neg, 14, (0.5, 10), (0.25, 100), 0, 255), 92);
    assert_eq!(unary_entry(Unary::Log, 0, (0.5, 10), (0.25, 100), 5, 255), 5);
    assert_eq!(
        (unary_entry(Unary::Exp, 255, (1.0, 0), (1.0, 0), 0, 250), unary_entry(Unary::Log, 10, (0.5, 10), (0.25, 100), 5, 255)),
        (250, 5)
    );
    assert_eq!(requantize_entry(15, (0.5, 10), (2.0, 100), 0, 255), 101);
    assert_eq!((requantize_entry(13, (0.5, 10), (1.0, 100), 0, 255), requantize_entry(15, (0.5, 10), (1.0, 100), 0, 255)), (102, 102));
    assert_eq!((requantize_entry(255, (9.0, 0), (1.0, 0), 0, 255), requantize_entry(0, (9.0, 255), (1.0, 100), 7, 255)), (255, 7));
    assert_eq!((requantize_entry(255, (9.0, 0), (1.0, 100), 0, 255), unary_entry(Unary::Exp, 9, (1.0, 0), (1.0, -7), 0, 255)), (255, 255));
    let (unsigned, signed) = (byte_table(false, |q| q - 1), byte_table(true, |q| q * 2));
    assert_eq!((unsigned[0], unsigned[1], unsigned[200]), (255, 0, 199));
    assert_eq!((signed[3], signed[255], signed[128]), (6, 254, 0));
    let table = softmax_table(0.1);
    assert_eq!((table[0], table[1], table[7], table[255]), (8_388_608, 7_590_326, 4_165_659, 0));
    assert_eq!((softmax_factor(4, 1.0), softmax_factor(4, 0.125)), (0.25, 2.0));
    let quantized = |e| softmax_quantized(e, 0.25, 3, 0, 255);
    assert_eq!((quantized(10), quantized(14), quantized(0), quantized(u32::MAX)), (5, 7, 3, 255));
    // The upper bound holds before the zero point is added, also where the type is wide.
    assert_eq!(softmax_quantized(4000, 0.25, -100, -32768, 127), 127);
    assert_eq!((softmax_quantized(0, 0.25, -130, -128, 127), softmax_quantized(1000, 0.25, 0, 0, 100)), (-128, 100));
}
