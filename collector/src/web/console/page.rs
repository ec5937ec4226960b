//! Templates of the console: whole pages, and the same sections as fragments.

use askama::Template;

use super::devices::{DevicePage, DeviceRow};
use super::model::ConsoleModel;
use super::services::ServicePage;
use super::tickets::ExplainPage;

#[derive(Template, Debug)]
#[template(path = "console/overview.html")]
pub struct Overview {
    pub model: ConsoleModel,
    /// The newest entries only, and of those only what tells something new.
    pub brief: bool,
}

#[derive(Template, Debug)]
#[template(path = "console/devices.html")]
pub struct Devices {
    pub model: ConsoleModel,
    pub rows: Vec<DeviceRow>,
    pub search: String,
}

#[derive(Template, Debug)]
#[template(path = "console/device.html")]
pub struct Device {
    pub model: ConsoleModel,
    pub device: DevicePage,
}

#[derive(Template, Debug)]
#[template(path = "console/explain.html")]
pub struct Explain {
    pub model: ConsoleModel,
    pub explain: ExplainPage,
}

#[derive(Template, Debug)]
#[template(path = "console/timeline.html")]
pub struct Timeline {
    pub model: ConsoleModel,
    /// The newest entries only, and of those only what tells something new.
    pub brief: bool,
}

#[derive(Template, Debug)]
#[template(path = "console/missing.html")]
pub struct Missing {
    pub model: ConsoleModel,
    pub title: &'static str,
    pub text: &'static str,
}

#[derive(Template, Debug)]
#[template(path = "console/part-strip.html")]
pub struct StripPart {
    pub model: ConsoleModel,
}

#[derive(Template, Debug)]
#[template(path = "console/part-now.html")]
pub struct NowPart {
    pub model: ConsoleModel,
}

#[derive(Template, Debug)]
#[template(path = "console/part-tickets.html")]
pub struct TicketsPart {
    pub model: ConsoleModel,
}

#[derive(Template, Debug)]
#[template(path = "console/part-services.html")]
pub struct ServicesPart {
    pub model: ConsoleModel,
}

#[derive(Template, Debug)]
#[template(path = "console/part-sites.html")]
pub struct SitesPart {
    pub model: ConsoleModel,
}

#[derive(Template, Debug)]
#[template(path = "console/part-timeline.html")]
pub struct TimelinePart {
    pub model: ConsoleModel,
    /// The newest entries only, and of those only what tells something new.
    pub brief: bool,
}

#[derive(Template, Debug)]
#[template(path = "console/part-devices.html")]
pub struct DevicesPart {
    pub rows: Vec<DeviceRow>,
    pub search: String,
}

#[derive(Template, Debug)]
#[template(path = "console/part-device.html")]
pub struct DevicePart {
    pub device: DevicePage,
}

#[derive(Template, Debug)]
#[template(path = "console/part-explain.html")]
pub struct ExplainPart {
    pub explain: ExplainPage,
}

#[derive(Template, Debug)]
#[template(path = "console/service.html")]
pub struct Service {
    pub model: ConsoleModel,
    pub service: ServicePage,
}

#[derive(Template, Debug)]
#[template(path = "console/part-service.html")]
pub struct ServicePart {
    pub service: ServicePage,
}
