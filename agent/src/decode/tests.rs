use super::*;
use proptest::prelude::*;

fn plain(kind: RegisterType, order: WordOrder) -> Decoder {
    Decoder { kind, order, ..Decoder::default() }
}

fn num(decoder: &Decoder, registers: &[u16]) -> Result<f64, BadReason> {
    decoder.decode(Raw::Registers(registers)).map(|v| v.as_num().unwrap())
}

#[test]
fn every_type_in_every_order() {
    use RegisterType as T;
    use WordOrder as O;
    let words = [0x4248, 0xF5C3]; // 50.24 as a float
    let swapped = [0xF5C3, 0x4248];
    let bytes = |w: [u16; 2]| w.map(u16::swap_bytes);
    for (order, registers) in [(O::Abcd, words), (O::Cdab, swapped), (O::Badc, bytes(words)), (O::Dcba, bytes(swapped))]
    {
        assert_eq!(num(&plain(T::F32, order), &registers), Ok(50.24), "{order:?}");
        assert_eq!(num(&plain(T::U32, order), &registers), Ok(f64::from(0x4248_F5C3_u32)), "{order:?}");
    }
    let four = [0xFFFF, 0xFFFF, 0xFFFF, 0xFF85];
    assert_eq!(num(&plain(T::I64, O::Abcd), &four), Ok(-123.0));
    assert_eq!(num(&plain(T::I64, O::Cdab), &[0xFF85, 0xFFFF, 0xFFFF, 0xFFFF]), Ok(-123.0));
    assert_eq!(num(&plain(T::U64, O::Dcba), &[0x0100, 0, 0, 0]), Ok(1.0));
    assert_eq!(num(&plain(T::F64, O::Abcd), &[0x4009, 0x21FB, 0x5444, 0x2D18]), Ok(std::f64::consts::PI));
    assert_eq!(num(&plain(T::I16, O::Abcd), &[0xFFFE]), Ok(-2.0));
    assert_eq!(num(&plain(T::I16, O::Badc), &[0xFEFF]), Ok(-2.0));
    assert_eq!(num(&plain(T::U16, O::Abcd), &[0xFFFE]), Ok(65_534.0));
    assert_eq!(num(&plain(T::I32, O::Abcd), &[0xFFFF, 0xFFFF]), Ok(-1.0));
}

#[test]
fn a_wrong_number_of_registers_is_no_value() {
    for registers in [&[][..], &[1], &[1, 2, 3]] {
        assert_eq!(num(&plain(RegisterType::U32, WordOrder::Abcd), registers), Err(BadReason::Decode));
    }
}

#[test]
fn scaling_gives_clean_numbers() {
    let mut decoder = Decoder { scale: Scale::new(0.1, 0.0), ..Decoder::default() };
    assert_eq!(num(&decoder, &[2369]), Ok(236.9));
    decoder.scale = Scale::new(1.0 / 512.0, 0.0);
    assert_eq!(num(&decoder, &[51_200]), Ok(100.0));
    decoder.scale = Scale::new(-1.0, 100.0);
    assert_eq!(num(&decoder, &[97]), Ok(3.0));
    decoder.scale = Scale::new(60.0, 0.0);
    assert_eq!(num(&decoder, &[37]), Ok(2_220.0));
}

#[test]
fn decimal_digits_in_four_bits_each() {
    let mut decoder = plain(RegisterType::Bcd16, WordOrder::Abcd);
    assert_eq!(num(&decoder, &[0x1234]), Ok(1_234.0));
    assert_eq!(num(&decoder, &[0x12A4]), Err(BadReason::Decode));
    decoder.sentinels = vec![Sentinel::Bits(0xFFFF)];
    assert_eq!(num(&decoder, &[0xFFFF]), Err(BadReason::Sentinel));
    assert_eq!(num(&plain(RegisterType::Bcd32, WordOrder::Cdab), &[0x5678, 0x1234]), Ok(12_345_678.0));
    assert_eq!(num(&plain(RegisterType::Bcd32, WordOrder::Abcd), &[0x9999, 0x9999]), Ok(99_999_999.0));
}

#[test]
fn sentinels_ranges_and_nan_are_bad() {
    let mut decoder = plain(RegisterType::I16, WordOrder::Abcd);
    decoder.sentinels = vec![Sentinel::Number(-32_768.0), Sentinel::Bits(0x7FFF)];
    decoder.range = Some((-20.0, 80.0));
    decoder.scale = Scale::new(0.1, 0.0);
    assert_eq!(num(&decoder, &[0x8000]), Err(BadReason::Sentinel));
    assert_eq!(num(&decoder, &[0x7FFF]), Err(BadReason::Sentinel));
    assert_eq!(num(&decoder, &[801]), Err(BadReason::Range));
    assert_eq!(num(&decoder, &[800]), Ok(80.0));
    let float = plain(RegisterType::F32, WordOrder::Abcd);
    assert_eq!(num(&float, &[0x7FC0, 0]), Err(BadReason::Sentinel));
    assert_eq!(num(&float, &[0x7F80, 0]), Err(BadReason::Range));
    let mut wide = plain(RegisterType::I64, WordOrder::Abcd);
    wide.sentinels = vec![Sentinel::Bits(0x8000_0000_0000_0000)];
    assert_eq!(num(&wide, &[0x8000, 0, 0, 0]), Err(BadReason::Sentinel));
}

#[test]
fn bits_words_and_texts() {
    let bit = Decoder { kind: RegisterType::U32, bit: Some(13), ..Decoder::default() };
    assert_eq!(num(&bit, &[0, 0x2000]), Ok(1.0));
    assert_eq!(num(&bit, &[0x2000, 0]), Ok(0.0));
    let words = Some(BTreeMap::from([(0, "off".to_owned()), (1, "on".to_owned())]));
    let state = Decoder { words, ..Decoder::default() };
    assert_eq!(state.decode(Raw::Bit(true)), Ok(Value::Text("on".to_owned())));
    assert_eq!(state.decode(Raw::Registers(&[0])), Ok(Value::Text("off".to_owned())));
    assert_eq!(state.decode(Raw::Registers(&[9])), Err(BadReason::Decode));
    let string = plain(RegisterType::String, WordOrder::Abcd);
    let registers = [0x4153, 0x3132, 0x2000, 0x4141];
    assert_eq!(string.decode(Raw::Registers(&registers)), Ok(Value::Text("AS12".to_owned())));
    assert_eq!(string.decode(Raw::Bytes(&[0xFF, 0xFE])), Err(BadReason::Decode));
}

#[test]
fn snmp_values_of_every_form() {
    let decoder = Decoder { scale: Scale::new(0.1, 0.0), ..Decoder::default() };
    let value = |raw| decoder.decode(raw).map(|v| v.as_num().unwrap());
    assert_eq!(value(Raw::Int(-5)), Ok(-0.5));
    assert_eq!(value(Raw::Counter(u64::MAX)), Ok(1_844_674_407_370_955_200.0));
    assert_eq!(value(Raw::Bytes(b" 12.5 ")), Ok(1.25));
    assert_eq!(value(Raw::Bytes(b"12 V")), Err(BadReason::Decode));
    let leading = Decoder { leading: true, sentinels: vec![Sentinel::Text("N/A".to_owned())], ..Decoder::default() };
    let value = |text: &str| leading.decode(Raw::Bytes(text.as_bytes())).map(|v| v.as_num().unwrap());
    assert_eq!(value("-24.5 C"), Ok(-24.5));
    assert_eq!(value("35. C"), Ok(35.0));
    assert_eq!(value("1.2.3"), Ok(1.2));
    assert_eq!(value(" N/A "), Err(BadReason::Sentinel));
    assert_eq!(value("C 5"), Err(BadReason::Decode));
}

#[test]
fn flags_in_octets_numbers_and_texts() {
    let bit = |bit| Decoder { bit: Some(bit), ..Decoder::default() };
    assert_eq!(bit(0).decode(Raw::Bytes(&[0x80])), Ok(Value::Num(1.0)));
    assert_eq!(bit(9).decode(Raw::Bytes(&[0x80, 0x40])), Ok(Value::Num(1.0)));
    assert_eq!(bit(9).decode(Raw::Bytes(&[0x80])), Ok(Value::Num(0.0)));
    assert_eq!(bit(3).decode(Raw::Int(8)), Ok(Value::Num(1.0)));
    assert_eq!(bit(2).decode(Raw::Int(8)), Ok(Value::Num(0.0)));
    let third = Decoder { char_at: Some(3), ..Decoder::default() };
    assert_eq!(third.decode(Raw::Bytes(b"0010")), Ok(Value::Num(1.0)));
    assert_eq!(third.decode(Raw::Bytes(b"00")), Err(BadReason::Decode));
    let mut words = Decoder { texts: Some(BTreeMap::from([("on line".to_owned(), "on".to_owned())])), ..third };
    assert_eq!(words.decode(Raw::Bytes(b"On Line ")), Ok(Value::Text("on".to_owned())));
    assert_eq!(words.decode(Raw::Bytes(b"?")), Err(BadReason::Decode));
    words.other_word = Some("fault".to_owned());
    assert_eq!(words.decode(Raw::Bytes(b"?")), Ok(Value::Text("fault".to_owned())));
}

#[test]
fn a_unit_joins_the_scale_cleanly() {
    let scale = |scale, from, to| Scale::new(scale, 0.0).then(crate::adjust::conversion(from, to).unwrap());
    assert_eq!(scale(0.1, "kW", "W").apply(339.0), 33_900.0);
    assert_eq!(scale(0.1, "bar", "kPa").apply(37.0), 370.0);
    assert_eq!(scale(1.0, "cs", "s").apply(174_000.0), 1_740.0);
    assert!((scale(0.1, "degF", "Cel").apply(683.0) - 20.166_666).abs() < 1e-5);
}

proptest! {
    #[test]
    fn no_input_panics_and_numbers_are_finite(
        registers in proptest::collection::vec(any::<u16>(), 0..200), kind in 0_u8..9, order in 0_u8..4,
        scale in -1e300_f64..1e300, bit in proptest::option::of(any::<u8>())
    ) {
        use RegisterType as T;
        let kind = [T::U16, T::I16, T::U32, T::I32, T::U64, T::I64, T::F32, T::F64, T::String][usize::from(kind)];
        let order = [WordOrder::Abcd, WordOrder::Cdab, WordOrder::Badc, WordOrder::Dcba][usize::from(order)];
        let decoder = Decoder { kind, order, bit, scale: Scale::new(scale, 1.0), ..Decoder::default() };
        if let Ok(Value::Num(n)) = decoder.decode(Raw::Registers(&registers)) {
            prop_assert!(n.is_finite());
        }
    }

    #[test]
    fn a_float_keeps_its_value(bits: u32) {
        let value = f32::from_bits(bits);
        if value.is_finite() {
            #[allow(clippy::cast_possible_truncation)]
            let back = shortest(value) as f32;
            prop_assert_eq!(back.to_bits(), value.to_bits());
        }
    }
}
