//! Seeded dice: the same seed gives the same throws, on every platform. Pure.

/// The increment of SplitMix64 (Steele, Lea, Flood 2014): 2⁶⁴ divided by the golden ratio.
const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// A SplitMix64 generator.
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    /// Dice for one purpose: throws for different `purpose` values are unrelated.
    pub(super) fn new(seed: u64, purpose: u64) -> Self {
        Self(scramble(
            seed ^ scramble(purpose.wrapping_add(GOLDEN_GAMMA)),
        ))
    }

    /// Uniform over all of `u64`.
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN_GAMMA);
        scramble(self.0)
    }

    /// Uniform in `0..bound`; the bias for the small bounds used here is below 2⁻⁵⁰.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Uniform in `0.0..1.0`.
    pub(super) fn unit(&mut self) -> f64 {
        // 53 bits are what a double's mantissa holds.
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Standard normal, by Box and Muller.
    pub(super) fn normal(&mut self) -> f64 {
        // 1 - unit() is in (0, 1], so the logarithm is finite.
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }
}

fn scramble(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throws_repeat_by_seed_and_differ_by_purpose() {
        let throws = |seed, purpose| {
            let mut dice = Dice::new(seed, purpose);
            [dice.next(), dice.next(), dice.next()]
        };
        assert_eq!(throws(1, 2), throws(1, 2));
        assert_ne!(throws(1, 2), throws(2, 2));
        assert_ne!(throws(1, 2), throws(1, 3));
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut dice = Dice::new(7, 7);
        let count = 100_000;
        let unit_mean = (0..count).map(|_| dice.unit()).sum::<f64>() / f64::from(count);
        assert!((unit_mean - 0.5).abs() < 0.01, "{unit_mean}");
        let normals: Vec<f64> = (0..count).map(|_| dice.normal()).collect();
        let mean = normals.iter().sum::<f64>() / f64::from(count);
        let variance = normals.iter().map(|x| x * x).sum::<f64>() / f64::from(count);
        assert!(
            mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03,
            "{mean} {variance}"
        );
    }
}
