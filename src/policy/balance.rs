//! Smooth weighted round robin over the endpoints that are usable now. Pure.
//!
//! nginx's algorithm: on every pick each candidate earns its weight in credit, the richest one is
//! taken and pays for all. Weights 5, 1, 1 give a a b a c a a, never five in a row.

/// A shard's cursor over the weighted endpoints.
#[derive(Clone, Debug)]
pub struct Ring {
    endpoints: Vec<Weighted>,
}

#[derive(Clone, Copy, Debug)]
struct Weighted {
    weight: i64,
    /// Stays within the sum of weights. An endpoint earns nothing while it is not a candidate,
    /// so it comes back without a claim on what it missed.
    credit: i64,
}

impl Ring {
    /// A ring over endpoints `0..weights.len()`.
    pub fn new(weights: &[u32]) -> Self {
        let endpoints = weights
            .iter()
            .map(|&weight| Weighted {
                weight: i64::from(weight),
                credit: 0,
            })
            .collect();
        Self { endpoints }
    }

    /// The endpoint for the next request, or `None` if none is usable. `avoid` is the one that
    /// just failed this line: taken only if no other is usable.
    pub fn pick(&mut self, usable: impl Fn(usize) -> bool, avoid: Option<usize>) -> Option<usize> {
        let mut total = 0;
        let mut richest: Option<usize> = None;
        for index in 0..self.endpoints.len() {
            if Some(index) == avoid || !usable(index) {
                continue;
            }
            let endpoint = &mut self.endpoints[index];
            endpoint.credit += endpoint.weight;
            total += endpoint.weight;
            let credit = endpoint.credit;
            if richest.is_none_or(|richest| credit > self.endpoints[richest].credit) {
                richest = Some(index);
            }
        }
        match richest {
            Some(index) => self.endpoints[index].credit -= total,
            None => return avoid.filter(|&index| index < self.endpoints.len() && usable(index)),
        }
        richest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(ring: &mut Ring, picks: usize, usable: impl Fn(usize) -> bool) -> Vec<usize> {
        let mut counts = vec![0; ring.endpoints.len()];
        for _ in 0..picks {
            counts[ring.pick(&usable, None).expect("one is usable")] += 1;
        }
        counts
    }

    #[test]
    fn picks_are_smooth() {
        let mut ring = Ring::new(&[5, 1, 1]);
        let picks: Vec<usize> = (0..7).filter_map(|_| ring.pick(|_| true, None)).collect();
        assert_eq!(picks, [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn ten_thousand_picks_match_the_weights() {
        for weights in [
            &[1, 1][..],
            &[2, 1],
            &[5, 3, 2],
            &[100, 1],
            &[u32::MAX, u32::MAX],
            &[7; 16],
        ] {
            let sum: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
            let counts = counts(&mut Ring::new(weights), 10_000, |_| true);
            for (count, &weight) in counts.into_iter().zip(weights) {
                let expect = f64::from(weight) / sum * 10_000.0;
                assert!(
                    (count as f64 - expect).abs() <= 1.0,
                    "{weights:?}: {count}, not {expect}"
                );
            }
        }
    }

    #[test]
    fn an_endpoint_that_comes_back_claims_nothing() {
        let mut ring = Ring::new(&[1, 1, 2]);
        counts(&mut ring, 1001, |_| true);
        let without = counts(&mut ring, 9000, |index| index != 0);
        assert!(
            without[0] == 0 && without[1].abs_diff(3000) <= 1,
            "{without:?}"
        );
        let after = counts(&mut ring, 8, |_| true);
        assert!(
            after[0] <= 3,
            "a fair share of 8 picks is 2, got {}",
            after[0]
        );
    }

    #[test]
    fn flickering_endpoints_keep_the_others_in_proportion() {
        let mut ring = Ring::new(&[3, 1, 2]);
        let mut counts = [0_u32; 3];
        for round in 0..9000 {
            let usable = |index: usize| index != 2 || round % 3 == 0;
            counts[ring.pick(usable, None).expect("two are usable")] += 1;
        }
        let ratio = f64::from(counts[0]) / f64::from(counts[1]);
        assert!((2.9..3.1).contains(&ratio), "{counts:?}");
    }

    #[test]
    fn the_endpoint_to_avoid_is_the_last_resort() {
        let check = |usable: &[usize], avoid, expect| {
            let mut ring = Ring::new(&[100, 1]);
            assert_eq!(ring.pick(|index| usable.contains(&index), avoid), expect);
        };
        check(&[0, 1], None, Some(0));
        check(&[0, 1], Some(0), Some(1));
        check(&[0], Some(0), Some(0));
        check(&[1], Some(0), Some(1));
        check(&[], Some(0), None);
        check(&[], None, None);
        check(&[], Some(9), None);
    }
}
