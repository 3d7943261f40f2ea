//! Shapes of load for tests: connections that come by chance and live as long as their kind does.

use super::series::Point;

/// xorshift64*: the same numbers on every run.
struct Chance(u64);

impl Chance {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn within(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.unit()).ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// A Poisson number.
    fn count(&mut self, mean: f64) -> usize {
        if mean > 50.0 {
            return (mean + mean.sqrt() * self.normal()).round().max(0.0) as usize;
        }
        let (limit, mut product, mut n) = ((-mean).exp(), self.unit(), 0);
        while product > limit {
            product *= self.unit();
            n += 1;
        }
        n
    }
}

/// How long an entry lives, in seconds.
#[derive(Clone, Copy)]
enum Life {
    /// A timeout: always the same, but for how long the garbage collector takes.
    Timeout(f64),
    /// By chance, this long in the mean.
    Mean(f64),
    /// Until closed by the shape.
    Held,
}

/// The simulated table.
struct Sim {
    chance: Chance,
    deaths: Vec<u32>,
    now: usize,
    point: Point,
    held: f64,
}

/// Seconds that can be simulated.
const LONGEST: usize = 8192;

impl Sim {
    fn new(seed: u64) -> Self {
        Self {
            chance: Chance::new(seed),
            deaths: vec![0; LONGEST],
            now: 0,
            point: Point { entries: 0.0, came: 0.0, went: 0.0 },
            held: 0.0,
        }
    }

    /// So many a second in the mean come in this second.
    fn come(&mut self, rate: f64, life: Life) {
        let n = self.chance.count(rate);
        self.point.came += n as f64;
        self.point.entries += n as f64;
        for _ in 0..n {
            let lives = match life {
                Life::Timeout(seconds) => seconds + self.chance.within(0.0, 1.0 + seconds * 0.05),
                Life::Mean(mean) => -mean * (1.0 - self.chance.unit()).ln(),
                Life::Held => {
                    self.held += 1.0;
                    continue;
                }
            };
            let at = self.now + lives as usize;
            if at < LONGEST {
                self.deaths[at] += 1;
            }
        }
    }

    /// What is held goes.
    fn close(&mut self) {
        self.point.entries -= self.held;
        self.point.went += self.held;
        self.held = 0.0;
    }

    /// Ends the second.
    fn second(&mut self) -> Point {
        let died = f64::from(self.deaths[self.now]);
        self.point.entries -= died;
        self.point.went += died;
        self.now += 1;
        self.point
    }
}

/// Ordinary traffic, that holds so many entries in the mean: closed TCP, UDP, and requests.
fn traffic(sim: &mut Sim, entries: f64) {
    sim.come(entries * 0.6 / 124.0, Life::Timeout(120.0));
    sim.come(entries * 0.2 / 31.0, Life::Timeout(30.0));
    sim.come(entries * 0.2 / 15.0, Life::Mean(15.0));
}

/// A shape of load on top of ordinary traffic. Those marked "full" reach the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Entries that are held come at one rate; full.
    Linear,
    /// Ordinary traffic of which there is more and more; full.
    MoreAndMore,
    /// Bursts of requests at any time, of any height.
    Bursts,
    /// Bursts at their time, about as high each, that leave something behind; full.
    LeavingBursts,
    /// Held entries that are closed all at once, again and again.
    SawTooth,
    /// The same, each tooth higher than the one before; full.
    ClimbingSawTooth,
    /// Several times the traffic from one second to the next.
    Plateau,
    /// The same, to a level above the limit; full.
    PlateauAbove,
    /// Linear, until it stops.
    GrowthThatStops,
    /// The same, but it goes on after three minutes; full.
    GrowthThatPauses,
}

/// A run: the table second by second until it is full, or to the end.
pub(super) struct Run {
    pub(super) limit: f64,
    pub(super) points: Vec<Point>,
    /// The second in which it was full.
    pub(super) full: Option<usize>,
    /// When the shape begins; before it there is ordinary traffic.
    pub(super) begins: usize,
    /// When a growth stops, or the first tooth is over.
    pub(super) stops: usize,
}

/// When ordinary traffic has reached its level.
pub(super) const AT_REST: usize = 200;

/// What differs from run to run; entries and seconds.
struct Plan {
    shape: Shape,
    limit: f64,
    base: f64,
    top: f64,
    /// How long a linear growth takes.
    length: f64,
    /// From tooth to tooth, and from burst to burst in the mean.
    period: f64,
    /// A burst lasts so long.
    lasts: f64,
    /// By what teeth and bursts climb.
    climb: f64,
    /// When the next tooth or burst begins.
    next: f64,
    /// Until when the burst goes on, and how many come a second.
    burst: (f64, f64),
}

impl Plan {
    fn of(shape: Shape, limit: f64, chance: &mut Chance) -> Self {
        Self {
            shape,
            limit,
            base: chance.within(0.15, 0.35) * limit,
            length: chance.within(300.0, 900.0),
            period: chance.within(60.0, 240.0),
            top: chance.within(0.6, 0.85) * limit,
            lasts: chance.within(4.0, 10.0),
            climb: chance.within(0.02, 0.06) * limit,
            next: 0.0,
            burst: (0.0, 0.0),
        }
    }

    /// What comes beside the ordinary traffic, `since` seconds after the shape began.
    fn second(&mut self, sim: &mut Sim, since: f64) {
        let height = self.top - self.base;
        let linear = (self.limit - self.base) / self.length;
        match self.shape {
            Shape::Linear => sim.come(linear, Life::Held),
            Shape::MoreAndMore => {
                traffic(sim, ((self.limit * 1.1 - self.base) * since / self.length).min(self.limit));
            }
            Shape::Bursts | Shape::LeavingBursts => self.burst(sim, since),
            Shape::SawTooth => self.tooth(sim, since, height),
            Shape::ClimbingSawTooth => {
                self.tooth(sim, since, height * 0.6 + self.climb * (since / self.period).floor());
            }
            Shape::Plateau => traffic(sim, height),
            Shape::PlateauAbove => traffic(sim, 1.05 * self.limit + 0.1 * self.top - self.base),
            Shape::GrowthThatStops if since < self.length => sim.come(height / self.length, Life::Held),
            Shape::GrowthThatStops => {}
            Shape::GrowthThatPauses => {
                if !(self.length / 2.0..self.length / 2.0 + 180.0).contains(&since) {
                    sim.come(linear, Life::Held);
                }
            }
        }
    }

    fn tooth(&mut self, sim: &mut Sim, since: f64, height: f64) {
        if since >= self.next {
            sim.close();
            self.next = since + self.period;
        }
        sim.come(height / self.period, Life::Held);
    }

    fn burst(&mut self, sim: &mut Sim, since: f64) {
        let leaves = self.shape == Shape::LeavingBursts;
        if since >= self.next {
            let (high, late) = match leaves {
                true => (sim.chance.within(0.7, 0.75), sim.chance.within(0.97, 1.03)),
                false => (sim.chance.within(0.5, 1.0), sim.chance.within(0.5, 1.5)),
            };
            self.burst = (since + self.lasts, high * (self.top - self.base) / self.lasts);
            self.next = since + late * self.period;
        }
        if since < self.burst.0 {
            sim.come(self.burst.1, Life::Mean(12.0));
            sim.come(if leaves { self.climb / self.lasts } else { 0.0 }, Life::Held);
        }
    }
}

/// Runs a shape in a table of this limit.
pub(super) fn run(shape: Shape, limit: f64, seed: u64) -> Run {
    const BEGINS: usize = 420;
    let mut sim = Sim::new(seed);
    let mut plan = Plan::of(shape, limit, &mut sim.chance);
    let stops = BEGINS + if shape == Shape::SawTooth { plan.period } else { plan.length } as usize;
    let mut run = Run { limit, points: Vec::new(), full: None, begins: BEGINS, stops };
    // Those that climb may take long.
    let longest = if matches!(shape, Shape::LeavingBursts | Shape::ClimbingSawTooth) { 6000 } else { 2400 };
    for second in 0..longest {
        traffic(&mut sim, plan.base);
        if second >= BEGINS {
            plan.second(&mut sim, (second - BEGINS) as f64);
        }
        let point = sim.second();
        run.points.push(point);
        if point.entries >= limit {
            run.full = Some(second);
            break;
        }
    }
    run
}
