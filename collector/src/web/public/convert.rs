//! From the agreed state to what the page says. The only place of the public page that knows core's types of state.
//!
//! Times are those of the publication point, never of the replica handed in: between two points nothing changes that the
//! public sees, so every replica from one point to the next gives the same model.

use bcp_core::replica::Replica;
use bcp_core::status::ServiceStatus;

use super::lang::Localised;
use super::model::{Procedure, ProcedureState, PublicModel, PublicService};

/// `None` before the first publication point.
#[must_use]
pub fn public_model(replica: &Replica) -> Option<PublicModel> {
    let policy = replica.policy.as_ref()?;
    if replica.publication.sequence == 0 {
        return None;
    }
    let mut ordered: Vec<_> = policy.services.iter().collect();
    ordered.sort_by_key(|(id, service)| (service.order, *id));
    let services = ordered
        .into_iter()
        .map(|(id, service)| PublicService {
            id: id.to_string(),
            title: Localised::from(&service.title),
            summary: Localised::from(&service.summary),
            status: ServiceStatus::Unknown,
            since: None,
            effect: by_profession(&service.effect),
            still_works: Localised::from(&service.still_works),
            procedure: Procedure { state: ProcedureState::Off, since: None, steps: by_profession(&service.procedure) },
            contact: Localised::from(&service.contact),
            incident: None,
            next_update_due: None,
            days: Vec::new(),
        })
        .collect();
    Some(PublicModel {
        sequence: replica.publication.sequence,
        as_of: replica.publication.as_of,
        valid_until: replica.publication.valid_until,
        last_change: None,
        agreeing: None,
        services,
        incidents: Vec::new(),
    })
}

type ByProfession = std::collections::BTreeMap<String, std::collections::BTreeMap<String, String>>;

fn by_profession(texts: &ByProfession) -> Vec<(String, Localised)> {
    texts.iter().map(|(profession, text)| (profession.clone(), Localised::from(text))).collect()
}
