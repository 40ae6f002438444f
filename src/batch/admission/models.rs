//! Which endpoints are known to lack which models: a line goes where its model may be. Pure.
//!
//! What counts is the model as the line has it, none being one of them: what an endpoint's settings make
//! of it is always the same. Each shard learns by itself, which costs one request for each.

/// Models remembered. Of others, only the line that met the refusal goes elsewhere.
const MODELS_MAX: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub struct UnknownModels {
    /// By model: the endpoints that lack it.
    lacking: Vec<(Option<String>, Vec<usize>)>,
}

impl UnknownModels {
    /// Nothing is known of any model.
    pub fn is_empty(&self) -> bool {
        self.lacking.is_empty()
    }

    /// `endpoint` lacks `model`; `false` if that cannot be remembered.
    pub fn note(&mut self, model: Option<&str>, endpoint: usize) -> bool {
        let count = self.lacking.len();
        let found = (self.lacking.iter_mut()).find(|(known, _)| known.as_deref() == model);
        if let Some((_, endpoints)) = found {
            if !endpoints.contains(&endpoint) {
                endpoints.push(endpoint);
            }
            return true;
        }
        if count < MODELS_MAX {
            let model = model.map(str::to_owned);
            self.lacking.push((model, vec![endpoint]));
        }
        count < MODELS_MAX
    }

    /// The endpoints that lack `model`.
    pub fn lacking(&self, model: Option<&str>) -> &[usize] {
        let found = (self.lacking.iter()).find(|(known, _)| known.as_deref() == model);
        found.map_or(&[], |(_, endpoints)| endpoints)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_model_has_its_own_endpoints() {
        let mut models = UnknownModels::default();
        assert!(models.is_empty());
        for (model, endpoint) in [(Some("a"), 1), (None, 0), (Some("a"), 2), (Some("a"), 1)] {
            assert!(models.note(model, endpoint));
        }
        assert_eq!(models.lacking(Some("a")), [1, 2]);
        assert_eq!(models.lacking(None), [0]);
        assert!(models.lacking(Some("b")).is_empty());
        let remembered = (0..100).filter(|number| models.note(Some(&number.to_string()), 0));
        assert_eq!(remembered.count(), MODELS_MAX - 2);
    }
}
