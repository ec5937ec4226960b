use super::*;

fn order(simulator: &mut Simulator, device: &str, order: Order) -> Result<String, OrderError> {
    simulator.order(&Addressed { device: device.to_owned(), order })
}

#[test]
fn every_point_of_every_profile_is_served() {
    let mut count = 0;
    for site in Site::ALL {
        let simulator = Simulator::new(site).unwrap();
        for (id, device) in &simulator.devices {
            let missing: Vec<&str> = device.map.names().filter(|name| !device.values.contains_key(*name)).collect();
            assert_eq!(missing, Vec::<&str>::new(), "{id}");
            if device.map.is_modbus() {
                assert_ne!(simulator.image(id), modbus::Image::default());
            }
            count += 1;
        }
    }
    assert!(count >= 12, "{count} devices");
}

#[test]
fn mains_failure_shows_in_the_mib_and_a_pin_outlives_the_physics() {
    let mut simulator = Simulator::new(Site::A).unwrap();
    let read = |simulator: &Simulator, oid: &str| {
        simulator.tree("ups-a1").get(&ber::parse_oid(oid).unwrap()).cloned().unwrap()
    };
    let (source, charge) = ("1.3.6.1.2.1.33.1.4.1.0", "1.3.6.1.2.1.33.1.2.4.0");
    assert_eq!(read(&simulator, source), ber::Value::Integer(3));
    order(&mut simulator, "ups-a1", Order::Event { event: "mains-fail".into() }).unwrap();
    simulator.step(60.0, &mut |_| 0.0);
    assert_eq!(read(&simulator, source), ber::Value::Integer(5));
    assert!(matches!(read(&simulator, charge), ber::Value::Integer(80..=99)));
    let pin = Order::Set { point: "battery.charge".into(), value: "42".into() };
    order(&mut simulator, "ups-a1", pin).unwrap();
    simulator.step(60.0, &mut |_| 0.0);
    assert_eq!(read(&simulator, charge), ber::Value::Integer(42));
    order(&mut simulator, "ups-a1", Order::Clear { point: None }).unwrap();
    simulator.step(1.0, &mut |_| 0.0);
    assert_ne!(read(&simulator, charge), ber::Value::Integer(42));
    let wrong = order(&mut simulator, "ups-a1", Order::Event { event: "stop".into() });
    assert_eq!(
        wrong.unwrap_err().to_string(),
        "ups-a1 knows no event stop; it knows mains-fail mains-back weak-battery"
    );
    assert!(order(&mut simulator, "ups-b1", Order::Clear { point: None }).is_err());
    let both = order(&mut simulator, "ups-a*", Order::Event { event: "weak-battery".into() }).unwrap();
    assert_eq!(both.lines().count(), 2, "{both}");
    assert!(order(&mut simulator, "ups-b*", Order::Clear { point: None }).is_err());
}
