//! Simple physics of one site: mains, UPSs, a room and the units that cool it.
//!
//! Pure: time is an argument. Knows: energy, heat, and what an event changes.
//! Refuses to know: registers and protocols.
//! Invariants: charge stays within 0 to 100 %, temperatures within -20 to 60 degrees; the same steps give the same state.

/// Thermal mass of a room with its air and equipment, joules per kelvin and watt of rated load: without cooling a room
/// warms by about a degree in ten seconds, ten times quicker than a real one, so that a demonstration is short.
const HEAT_CAPACITY_PER_W: f64 = 10.0;
/// What goes through the walls, watts per kelvin, per watt of rated load.
const WALLS_PER_W: f64 = 0.01;
const OUTDOOR: f64 = 16.0;
const SUPPLY_SETPOINT: f64 = 18.0;
/// Return air at which a unit gives half of its rated cooling.
const RETURN_TARGET: f64 = 24.0;
/// Share of the rating per kelvin above or below the target.
const COOLING_GAIN: f64 = 0.25;
/// Seconds in which supply air follows; a stopped unit's supply becomes the air of the room.
const SUPPLY_LAG_S: f64 = 20.0;
/// A full battery carries the rated load for this long.
const RUNTIME_AT_RATED_S: f64 = 420.0;
/// Charging takes this share of the rating: 10 % of the charge in about 2 minutes.
const CHARGE_PER_S: f64 = 0.08;
const LOW_CHARGE: f64 = 20.0;
const MAINS_VOLTAGE: f64 = 230.0;

/// Where a UPS takes its output from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    Mains,
    Battery,
    /// Empty, or switched off.
    Dead,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Ups {
    pub rated_w: f64,
    pub mains: bool,
    pub charge: f64,
    pub on_battery_s: f64,
    pub load_w: f64,
}

impl Ups {
    const fn new(rated_w: f64) -> Ups {
        Ups { rated_w, mains: true, charge: 100.0, on_battery_s: 0.0, load_w: 0.0 }
    }

    #[must_use]
    pub fn output(&self) -> Output {
        match (self.mains, self.charge > 0.0) {
            (true, _) => Output::Mains,
            (false, true) => Output::Battery,
            (false, false) => Output::Dead,
        }
    }

    #[must_use]
    pub fn load_percent(&self) -> f64 {
        100.0 * self.load_w / self.rated_w
    }

    /// At the present load; batteries give less when they are drained faster.
    #[must_use]
    pub fn runtime_s(&self) -> f64 {
        let share = (self.load_w / self.rated_w).max(0.05);
        RUNTIME_AT_RATED_S * (self.charge / 100.0) / share.powf(1.15)
    }

    #[must_use]
    pub fn is_low(&self) -> bool {
        self.charge <= LOW_CHARGE
    }

    fn step(&mut self, dt_s: f64) {
        match self.output() {
            Output::Mains => {
                self.on_battery_s = 0.0;
                self.charge = (self.charge + CHARGE_PER_S * dt_s).min(100.0);
            }
            Output::Battery => {
                self.on_battery_s += dt_s;
                let drained = 100.0 * dt_s * (self.charge / 100.0).max(1e-6) / self.runtime_s().max(1e-3);
                self.charge = (self.charge - drained).max(0.0);
                if self.charge < 0.05 {
                    self.charge = 0.0;
                }
            }
            Output::Dead => self.load_w = 0.0,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Crac {
    pub rated_w: f64,
    pub on: bool,
    /// Share of the rated cooling that is given now, 0 to 1.
    pub output: f64,
    pub supply: f64,
}

impl Crac {
    const fn new(rated_w: f64) -> Crac {
        Crac { rated_w, on: true, output: 0.6, supply: SUPPLY_SETPOINT }
    }

    /// Fans never run below 30 % while the unit is on.
    #[must_use]
    pub fn fan_percent(&self) -> f64 {
        if self.on { 30.0 + 70.0 * self.output } else { 0.0 }
    }

    fn step(&mut self, dt_s: f64, room: f64) {
        let wanted = if self.on { (0.5 + COOLING_GAIN * (room - RETURN_TARGET)).clamp(0.0, 1.0) } else { 0.0 };
        // Valves and fans take some seconds.
        self.output += (wanted - self.output) * (dt_s / 5.0).min(1.0);
        let blown = if self.on { SUPPLY_SETPOINT + (room - 30.0).max(0.0) * 0.5 } else { room };
        self.supply += (blown - self.supply) * (dt_s / SUPPLY_LAG_S).min(1.0);
    }
}

/// One site.
#[derive(Debug, Clone, PartialEq)]
pub struct Hall {
    /// What the equipment draws while it has power.
    pub demand_w: f64,
    pub upses: Vec<Ups>,
    pub cracs: Vec<Crac>,
    pub room: f64,
    pub energy_wh: f64,
    pub elapsed_s: f64,
}

impl Hall {
    #[must_use]
    pub fn new(demand_w: f64, upses: usize, ups_w: f64, cracs: usize, crac_w: f64) -> Hall {
        let mut hall = Hall {
            demand_w,
            upses: vec![Ups::new(ups_w); upses],
            cracs: vec![Crac::new(crac_w); cracs],
            room: RETURN_TARGET + 0.4,
            energy_wh: 1_234_000.0,
            elapsed_s: 0.0,
        };
        hall.share_load();
        hall
    }

    /// Equipment with two supplies: what one UPS does not carry, the others do.
    fn share_load(&mut self) {
        let alive = self.upses.iter().filter(|ups| ups.output() != Output::Dead).count();
        let share = if alive == 0 { 0.0 } else { self.demand_w / f64::from(u32::try_from(alive).unwrap_or(1)) };
        for ups in &mut self.upses {
            ups.load_w = if ups.output() == Output::Dead { 0.0 } else { share };
        }
    }

    #[must_use]
    pub fn it_load_w(&self) -> f64 {
        self.upses.iter().map(|ups| ups.load_w).sum()
    }

    /// What the site takes from the mains: equipment behind the UPSs that have mains, charging, and cooling.
    #[must_use]
    pub fn mains_w(&self) -> f64 {
        let behind: f64 = self
            .upses
            .iter()
            .filter(|ups| ups.mains)
            .map(|ups| ups.load_w / 0.95 + if ups.charge < 100.0 { 0.05 * ups.rated_w } else { 0.0 })
            .sum();
        let cooling: f64 =
            self.cracs.iter().map(|crac| crac.rated_w * 0.25 * (crac.fan_percent() / 100.0).powi(2)).sum();
        behind + cooling
    }

    /// Advances by `dt_s` seconds, in steps short enough to be stable.
    pub fn step(&mut self, dt_s: f64) {
        let mut left = dt_s.clamp(0.0, 3_600.0);
        while left > 0.0 {
            let dt = left.min(1.0);
            left -= dt;
            self.share_load();
            for ups in &mut self.upses {
                ups.step(dt);
            }
            let room = self.room;
            for crac in &mut self.cracs {
                crac.step(dt, room);
            }
            let removed: f64 = self.cracs.iter().map(|crac| crac.rated_w * crac.output).sum();
            let walls = WALLS_PER_W * self.demand_w * (self.room - OUTDOOR);
            let heating = self.it_load_w() - removed - walls;
            self.room = (self.room + heating * dt / (HEAT_CAPACITY_PER_W * self.demand_w)).clamp(-20.0, 60.0);
            self.energy_wh += self.mains_w() * dt / 3_600.0;
            self.elapsed_s += dt;
        }
    }
}

/// What the input of a UPS measures.
#[must_use]
pub const fn input_voltage(ups: &Ups) -> f64 {
    if ups.mains { MAINS_VOLTAGE } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hall() -> Hall {
        Hall::new(24_000.0, 2, 20_000.0, 2, 20_000.0)
    }

    #[test]
    fn an_undisturbed_hall_stays_as_it_is() {
        let mut hall = hall();
        hall.step(3_600.0);
        assert!((23.0..25.5).contains(&hall.room), "{}", hall.room);
        assert!(hall.cracs.iter().all(|crac| (crac.supply - 18.0).abs() < 0.2));
        assert!(hall.upses.iter().all(|ups| ups.charge >= 100.0 && (ups.load_percent() - 60.0).abs() < 0.1));
    }

    #[test]
    fn a_ups_drains_without_mains_and_its_load_goes_to_the_other_one() {
        let mut hall = hall();
        hall.upses[0].mains = false;
        let predicted = hall.upses[0].runtime_s();
        hall.step(60.0);
        let ups = &hall.upses[0];
        assert_eq!(ups.output(), Output::Battery);
        assert!(ups.charge < 100.0 && ups.runtime_s() < predicted - 50.0, "{ups:?}");
        assert!((ups.on_battery_s - 60.0).abs() < 1.0);
        hall.step(predicted - 62.0);
        assert_eq!(hall.upses[0].output(), Output::Battery);
        assert!(hall.upses[0].is_low());
        hall.step(15.0);
        assert_eq!(hall.upses[0].output(), Output::Dead);
        assert!(hall.upses[1].load_percent() > 100.0);
        hall.upses[0].mains = true;
        hall.step(120.0);
        assert!((5.0..20.0).contains(&hall.upses[0].charge), "{}", hall.upses[0].charge);
        assert!((hall.upses[1].load_percent() - 60.0).abs() < 0.1);
    }

    #[test]
    fn a_room_warms_without_cooling_and_cools_down_again() {
        let mut hall = hall();
        hall.cracs[0].on = false;
        hall.step(60.0);
        assert!(hall.cracs[1].output > 0.8, "the other unit works harder");
        hall.cracs[1].on = false;
        hall.step(60.0);
        assert!(hall.room > 28.0 && hall.cracs[0].supply > 27.0, "{hall:?}");
        hall.step(3_600.0);
        assert!(hall.room <= 60.0);
        hall.cracs.iter_mut().for_each(|crac| crac.on = true);
        hall.step(900.0);
        assert!((23.0..26.0).contains(&hall.room), "{}", hall.room);
    }
}
