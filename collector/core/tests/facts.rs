//! Decisions that rest on what sites have left and what they have: runways, requirements, servers, the emergency site.

#![allow(clippy::unwrap_used)]

mod hand;

use std::collections::BTreeMap;

use bcp_core::failover::{Guard, TicketCommand};
use bcp_core::policy::{Policy, PoolPolicy, Require, SitePolicy, TicketKind, TicketPolicy};
use bcp_core::replica::Replica;
use bcp_core::site::{PoolWord, Runway, SiteWord, Supply};
use bcp_wire::control::{StepKind, StepOutcome};
use bcp_wire::{Id, Site};
use hand::{Hand, id, policy, ticket};

const SHORT: Runway = Runway::Left { ms: 240_000 };

fn power(runway: Runway) -> SiteWord {
    SiteWord { power: Some(runway), ..SiteWord::default() }
}

/// All three observers say the same.
fn all_say(hand: &mut Hand, sites: &[(Site, SiteWord)]) {
    let said: BTreeMap<Site, SiteWord> = sites.iter().cloned().collect();
    hand.words = Site::ALL.into_iter().map(|observer| (observer, said.clone())).collect();
}

fn runway_policy(rule: TicketPolicy) -> Policy {
    let told = |site: Site| SitePolicy {
        ups: vec![id(&format!("ups-{site}1"))],
        ups_needed: 1,
        too_hot: 35,
        ..SitePolicy::default()
    };
    let move_when = vec!["power_runway(holder) < duration(\"6m\")".parse().unwrap()];
    let rule = TicketPolicy { move_when, ..rule };
    Policy { sites: [Site::A, Site::B].map(|site| (site, told(site))).into(), ..policy(&[("rx", rule)]) }
}

fn running(policy: Policy) -> Hand {
    assert_eq!(policy.faults(), []);
    let mut hand = Hand::new(policy);
    hand.pass(500);
    hand.obey("rx");
    assert_eq!(hand.ticket("rx").holder, Some(Site::A));
    hand
}

#[test]
fn a_site_whose_batteries_run_out_is_left_by_a_planned_move() {
    let mut hand = running(runway_policy(ticket(TicketKind::ActivePassive)));
    all_say(&mut hand, &[(Site::A, power(SHORT)), (Site::B, power(Runway::Endless))]);
    hand.pass(500);
    assert_eq!(hand.order("rx", Site::A).unwrap().kind, StepKind::Stop, "{:#?}", hand.story());
    hand.obey("rx");
    let ticket = hand.ticket("rx");
    assert_eq!((ticket.holder, ticket.history.last().unwrap().to), (Some(Site::B), Site::B));
    assert_eq!(hand.told("power of site a lasts for less than 360 s"), 2, "{:#?}", hand.story());
    assert_eq!(hand.told("run out"), 0, "no lease was waited out");
}

#[test]
fn one_observer_or_unknown_moves_nothing() {
    let mut hand = running(runway_policy(ticket(TicketKind::ActivePassive)));
    let word = |runway| BTreeMap::from([(Site::A, power(runway)), (Site::B, power(Runway::Endless))]);
    hand.words =
        BTreeMap::from([(Site::A, word(SHORT)), (Site::B, word(Runway::Unknown)), (Site::W, word(Runway::Unknown))]);
    hand.pass(60_000);
    assert_eq!((hand.ticket("rx").holder, hand.ticket("rx").epoch.counter), (Some(Site::A), 1));
    // The word of an observer that fell silent is not kept for ever.
    all_say(&mut hand, &[]);
    hand.pass(60_000);
    assert_eq!(hand.ticket("rx").epoch.counter, 1);
}

#[test]
fn a_site_of_whose_supplies_nobody_knows_is_an_alarm_before_the_day_they_are_needed() {
    let mut hand = running(runway_policy(ticket(TicketKind::ActivePassive)));
    let raised = |hand: &Hand| {
        let policy = hand.replica.policy.as_ref().unwrap();
        let found = hand.replica.failover.alarm_conditions(policy);
        found.iter().filter(|condition| condition.key == "runway-unknown/a").count()
    };
    all_say(&mut hand, &[(Site::A, power(Runway::Endless)), (Site::B, power(Runway::Endless))]);
    hand.pass(400_000);
    assert_eq!(raised(&hand), 0);
    // One observer that knows is not enough; the others may never have heard a UPS of that name.
    all_say(&mut hand, &[(Site::A, power(Runway::Unknown)), (Site::B, power(Runway::Endless))]);
    hand.words.insert(Site::W, [(Site::A, power(SHORT)), (Site::B, power(Runway::Endless))].into());
    hand.pass(299_000);
    assert_eq!(raised(&hand), 0, "a restart is no alarm");
    hand.pass(2_000);
    assert_eq!(raised(&hand), 1);
    all_say(&mut hand, &[(Site::A, power(Runway::Endless)), (Site::B, power(Runway::Endless))]);
    hand.pass(1_000);
    assert_eq!(raised(&hand), 0);
}

#[test]
fn a_target_that_does_not_last_longer_is_no_target() {
    for (target, why) in [
        (Runway::Left { ms: 839_999 }, "site b does not last 10 min longer"),
        (Runway::Unknown, "how long site b lasts is unknown"),
    ] {
        let mut hand = running(runway_policy(ticket(TicketKind::ActivePassive)));
        all_say(&mut hand, &[(Site::A, power(SHORT)), (Site::B, power(target))]);
        hand.pass(30_000);
        assert_eq!(hand.ticket("rx").holder, Some(Site::A), "{target}");
        assert_eq!(hand.told(why), 1, "{:#?}", hand.story());
    }
    let mut hand = running(runway_policy(ticket(TicketKind::ActivePassive)));
    all_say(&mut hand, &[(Site::A, power(SHORT)), (Site::B, power(Runway::Left { ms: 840_000 }))]);
    hand.pass(500);
    hand.obey("rx");
    assert_eq!(hand.ticket("rx").holder, Some(Site::B));
}

#[test]
fn an_endless_holder_beside_a_site_on_battery_stays() {
    let mut hand = running(runway_policy(ticket(TicketKind::ActivePassive)));
    all_say(&mut hand, &[(Site::A, power(Runway::Endless)), (Site::B, power(SHORT))]);
    hand.pass(30_000);
    assert_eq!(hand.ticket("rx").epoch.counter, 1);
}

#[test]
fn a_promotion_that_is_refused_goes_back_while_the_site_still_lives() {
    let mut hand = running(runway_policy(ticket(TicketKind::ActivePassive)));
    all_say(&mut hand, &[(Site::A, power(SHORT)), (Site::B, power(Runway::Endless))]);
    hand.pass(500);
    for _ in 0..40 {
        for site in [Site::A, Site::B] {
            let refuses =
                hand.order("rx", site).is_some_and(|order| order.kind == StepKind::Promote && site == Site::B);
            hand.report("rx", site, if refuses { StepOutcome::Vetoed } else { StepOutcome::Done });
        }
        hand.pass(250);
        if hand.ticket("rx").frozen.is_some() {
            break;
        }
    }
    assert!(hand.told("is undone, back to site a") >= 1, "{:#?}", hand.story());
}

fn app(up: u32, down: u32, silent: u32, mass_silence: bool) -> SiteWord {
    let word = PoolWord { up, down, silent, unknown: 0, load: Some(100) };
    SiteWord { mass_silence, pools: BTreeMap::from([(id("app"), word)]), ..SiteWord::default() }
}

fn pool_policy(rules: &[(&str, TicketPolicy)]) -> Policy {
    let name = |site: Site, n: u32| id(&format!("app-{site}{n}"));
    let some = |from: u32, to: u32| {
        [Site::A, Site::B].map(|site| (site, (from..=to).map(|n| name(site, n)).collect::<Vec<Id>>())).into()
    };
    let pool = PoolPolicy {
        servers: some(1, 3),
        reserve: some(4, 5),
        min: 3,
        rise_ms: 5_000,
        fall_ms: 5_000,
        each: 100,
        load: Some("requests".into()),
    };
    Policy { pools: BTreeMap::from([(id("app"), pool)]), ..policy(rules) }
}

fn carried() -> TicketPolicy {
    TicketPolicy { pool: Some(id("app")), ..ticket(TicketKind::ActivePassive) }
}

fn move_to(to: Site) -> TicketCommand {
    TicketCommand::Move { to, reason: "test".into(), expect: None }
}

#[test]
fn requirements_hold_only_where_two_of_three_say_so() {
    let require =
        vec!["active(target, \"app\") >= 3".parse().unwrap(), "load(all) <= 0.7 * capacity(target)".parse().unwrap()];
    let rule = TicketPolicy { require, ..carried() };
    let with = |word: SiteWord| {
        let mut hand = running(pool_policy(&[("rx", rule.clone())]));
        all_say(&mut hand, &[(Site::A, app(3, 0, 0, false)), (Site::B, word)]);
        hand.pass(1_000);
        (hand.command("rx", move_to(Site::B)), hand)
    };
    assert!(with(app(3, 0, 0, false)).0, "200 fit into 0.7 of 300");
    let (moved, hand) = with(app(2, 1, 0, false));
    assert!(!moved);
    assert!(hand.told("it does not hold that active(target, \"app\") >= 3") > 0, "{:#?}", hand.story());
    assert!(hand.told("it does not hold that load(all) <= 0.700 * capacity(target)") > 0);
    let (moved, hand) = with(app(2, 0, 1, false));
    assert!(!moved, "a server that nobody hears is not there");
    assert!(hand.told("do not know whether at site b active(target") > 0, "{:#?}", hand.story());
    let mut hand = running(pool_policy(&[("rx", rule.clone())]));
    assert!(!hand.command("rx", move_to(Site::B)), "nobody said anything");
    hand.pass(1_000);
}

#[test]
fn tickets_that_leave_together_do_not_take_the_same_room_and_the_more_important_one_goes_first() {
    let rule = |priority| TicketPolicy { reserves: 200, priority, require: vec![], ..carried() };
    let mut hand = Hand::new(pool_policy(&[("rx", rule(50)), ("early", rule(60))]));
    hand.pass(500);
    hand.obey("rx");
    hand.obey("early");
    all_say(&mut hand, &[(Site::A, app(3, 0, 0, false)), (Site::B, app(3, 0, 0, false))]);
    (hand.there, hand.silent) = (vec![Site::B], vec![Site::A]);
    hand.pass(16_000);
    hand.obey("rx");
    hand.pass(5_000);
    assert_eq!(hand.ticket("rx").holder, Some(Site::B), "{:#?}", hand.story());
    assert_eq!(hand.ticket("early").holder, None);
    assert!(
        hand.told("early was not moved although site a is lost: pool app at site b has no room") == 1,
        "{:#?}",
        hand.story()
    );
}

#[test]
fn servers_that_stand_by_are_started_one_after_the_other_and_each_once() {
    let mut hand = running(pool_policy(&[("rx", carried())]));
    all_say(&mut hand, &[(Site::A, app(2, 3, 0, false)), (Site::B, app(3, 2, 0, false))]);
    hand.pass(250);
    let order = hand.order("rx", Site::A).unwrap();
    assert_eq!((order.kind, order.params["server"].as_str()), (StepKind::Capacity, "app-a4"));
    assert!(hand.order("rx", Site::B).is_none_or(|order| order.kind != StepKind::Capacity), "b does not carry it");
    assert!(hand.report("rx", Site::A, StepOutcome::Failed));
    hand.pass(4_750);
    assert!(hand.order("rx", Site::A).is_none(), "it is tried again later");
    hand.pass(500);
    let again = hand.order("rx", Site::A).unwrap();
    assert_ne!(again.key, order.key);
    assert!(hand.report("rx", Site::A, StepOutcome::Done));
    hand.pass(10_000);
    assert!(hand.order("rx", Site::A).is_none(), "the first one has time to come up");
    hand.pass(10_000);
    let second = hand.order("rx", Site::A).unwrap();
    assert_eq!(second.params["server"], "app-a5");
    assert!(hand.report("rx", Site::A, StepOutcome::Already));
    hand.pass(25_000);
    assert_eq!(hand.told("none stands by (2 were started)"), 1, "{:#?}", hand.story());
    assert!(conditions(&hand.replica).contains(&"pool-short/rx".to_owned()));
    all_say(&mut hand, &[(Site::A, app(3, 2, 0, false)), (Site::B, app(3, 2, 0, false))]);
    hand.pass(500);
    assert!(!conditions(&hand.replica).contains(&"pool-short/rx".to_owned()));
    assert_eq!(hand.ticket("rx").epoch.counter, 1, "nothing moved");
}

#[test]
fn where_two_servers_are_missing_the_second_does_not_wait_for_the_first_to_come_up() {
    let mut hand = running(pool_policy(&[("rx", carried())]));
    all_say(&mut hand, &[(Site::A, app(1, 4, 0, false)), (Site::B, app(3, 2, 0, false))]);
    hand.pass(250);
    assert_eq!(hand.order("rx", Site::A).unwrap().params["server"], "app-a4");
    assert!(hand.report("rx", Site::A, StepOutcome::Vetoed), "the next one is tried instead");
    hand.pass(250);
    assert_eq!(hand.order("rx", Site::A).unwrap().params["server"], "app-a5");
    assert!(hand.report("rx", Site::A, StepOutcome::Done));
    hand.pass(500);
    assert_eq!(hand.told("none stands by (2 were started)"), 1, "{:#?}", hand.story());
    let mut hand = running(pool_policy(&[("rx", carried())]));
    all_say(&mut hand, &[(Site::A, app(1, 4, 0, false)), (Site::B, app(3, 2, 0, false))]);
    hand.pass(250);
    assert!(hand.report("rx", Site::A, StepOutcome::Done));
    // One of those that were down is back: the other one is enough.
    all_say(&mut hand, &[(Site::A, app(2, 3, 0, false)), (Site::B, app(3, 2, 0, false))]);
    hand.pass(500);
    assert_eq!(hand.order("rx", Site::A).unwrap().params["server"], "app-a5");
    assert!(hand.report("rx", Site::A, StepOutcome::Done));
    hand.pass(15_000);
    assert_eq!(hand.told("none stands by"), 0, "both have time to come up: {:#?}", hand.story());
}

fn conditions(replica: &Replica) -> Vec<String> {
    let found = replica.failover.alarm_conditions(replica.policy.as_ref().unwrap());
    found.into_iter().map(|condition| condition.key).collect()
}

#[test]
fn many_servers_silent_at_once_are_the_network_until_a_second_observer_says_the_same() {
    let mut hand = running(pool_policy(&[("rx", carried())]));
    let seen = |word: SiteWord| BTreeMap::from([(Site::A, word)]);
    // b and w have lost sight of most of a, but only b of so many at once.
    hand.words = BTreeMap::from([
        (Site::A, seen(app(3, 2, 0, false))),
        (Site::B, seen(app(1, 2, 2, true))),
        (Site::W, seen(app(3, 2, 0, false))),
    ]);
    hand.pass(60_000);
    assert!(hand.order("rx", Site::A).is_none());
    // Silence of single servers is loss; of a crowd, where two see it.
    hand.words.insert(Site::W, seen(app(1, 2, 2, true)));
    hand.pass(500);
    assert_eq!(hand.order("rx", Site::A).unwrap().kind, StepKind::Capacity);
    assert_eq!(hand.ticket("rx").epoch.counter, 1, "and nothing moves for it");
}

fn emergency() -> Policy {
    let mut rule = TicketPolicy {
        emergency: Some(Site::W),
        rpo: bcp_core::policy::Rpo::Availability,
        ..ticket(TicketKind::ActivePassive)
    };
    rule.gates.insert(Site::W, vec![id("host-w")]);
    policy(&[("rx", rule)])
}

#[test]
fn the_third_site_takes_over_only_when_two_people_say_so() {
    let mut hand = running(emergency());
    hand.there.push(Site::W);
    hand.pass(1_000);
    assert!(hand.command_by("op-1", "rx", move_to(Site::W)), "{:#?}", hand.story());
    hand.pass(1_000);
    let epoch = hand.ticket("rx").epoch;
    let confirm = || TicketCommand::Confirm { epoch, expect: None };
    assert!(!hand.command_by("op-1", "rx", confirm()), "the same person");
    assert_eq!(hand.ticket("rx").holder, Some(Site::A));
    assert!(hand.command_by("op-2", "rx", confirm()), "{:#?}", hand.story());
    hand.obey("rx");
    assert_eq!(hand.ticket("rx").holder, Some(Site::W), "{:#?}", hand.story());
    assert!(hand.command("rx", move_to(Site::A)), "and back, as any move");
    hand.obey("rx");
    assert_eq!(hand.ticket("rx").holder, Some(Site::A));
}

#[test]
fn nobody_confirms_and_the_question_ends() {
    let mut hand = running(emergency());
    hand.there.push(Site::W);
    hand.pass(1_000);
    assert!(hand.command_by("op-1", "rx", move_to(Site::W)));
    hand.pass(601_000);
    assert_eq!((hand.ticket("rx").holder, &hand.ticket("rx").pending), (Some(Site::A), &None));
    assert_eq!(hand.told("Nobody confirmed in time"), 1);
    let epoch = hand.ticket("rx").epoch;
    assert!(!hand.command_by("op-2", "rx", TicketCommand::Confirm { epoch, expect: None }));
}

#[test]
fn the_third_site_is_never_taken_by_itself_and_what_is_in_sync_says_nothing_of_it() {
    let mut hand = running(emergency());
    hand.there = vec![Site::W];
    hand.silent = vec![Site::A];
    hand.pass(60_000);
    assert_ne!(hand.ticket("rx").holder, Some(Site::W));
    // With rpo zero the copy that stands by is known to be in sync; the emergency system is not.
    let mut zero = emergency();
    zero.tickets.get_mut("rx").unwrap().rpo = bcp_core::policy::Rpo::Zero;
    let mut hand = running(zero);
    hand.there.push(Site::W);
    hand.pass(1_000);
    assert!(!{
        let asked = hand.command_by("op-1", "rx", move_to(Site::W));
        asked && hand.command_by("op-2", "rx", TicketCommand::Confirm { epoch: hand.ticket("rx").epoch, expect: None })
    });
    let force =
        || TicketCommand::Force { to: Site::W, guard: Guard::Freshness, reason: "both gone".into(), expect: None };
    assert!(hand.command_by("op-1", "rx", force()) && hand.command_by("op-2", "rx", force()), "{:#?}", hand.story());
    hand.obey("rx");
    assert_eq!(hand.ticket("rx").holder, Some(Site::W));
}

#[test]
fn a_policy_that_asks_for_what_nobody_reports_is_refused() {
    let faults = |policy: Policy| policy.faults().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let when = vec!["cooling_runway(holder) < duration(\"6m\")".parse().unwrap()];
    let blind = TicketPolicy { move_when: when, ..ticket(TicketKind::ActivePassive) };
    assert!(faults(policy(&[("rx", blind)])).contains("ticket.rx.move_when: nothing tells the cooling of site b"));
    let require = vec![Require::LoadFits { permille: 800 }, Require::Active { pool: id("db"), at_least: 1 }];
    let said = faults(policy(&[(
        "rx",
        TicketPolicy { require, pool: Some(id("db")), reserves: 5, ..ticket(TicketKind::ActivePassive) },
    )]));
    for part in [
        "there is no pool db",
        "pool db names no servers of site a",
        "a pool with `each` and `load`",
        "a pool with `each`: what",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let mut wrong = emergency();
    wrong.tickets.get_mut("rx").unwrap().emergency = Some(Site::B);
    assert!(faults(wrong.clone()).contains("only site w can be the emergency site"));
    assert!(wrong.unsafe_fault().is_some());
    assert_eq!(format!("{}", Supply::Power.as_str()), "power");
}
