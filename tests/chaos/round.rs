//! A chat's life: fault after fault, each from its beginning to its healing, and the final check.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use demes::cli::demo::check::check;
use demes::cli::demo::peer::until;
use demes::protocol::prng::Prng;
use tokio::time::sleep_until;

use crate::arena::{Arena, Ground};
use crate::menu::{Fault, Want, deck};
use crate::plan::{Harm, Plan, Scene, Step, plan};
use crate::report::{Report, Round, Row};
use crate::store::Stores;
use crate::tools::Tools;
use crate::watch::{Pulse, Watch};
use crate::workload::Workload;

/// How long the chat may take to go on where a majority is left. No fault needs nearly as long.
const GO_ON_LIMIT: Duration = Duration::from_secs(60);
/// The same after the healing.
const HEAL_LIMIT: Duration = Duration::from_secs(60);

/// So many faults in a row may not fit a chat.
const NOT_FOR_US_MAX: u32 = 100;

/// What a chat is like.
pub struct Setting {
    pub peers: usize,
    /// One way, through proxies.
    pub delay: Option<Duration>,
    pub rate: u32,
    pub only: Vec<String>,
    /// Whether the data directories stay where they are, whatever happens.
    pub keep: bool,
    /// What this machine does not have, and why not.
    pub lacks: Lacks,
    /// How long faults happen.
    pub lasts: Duration,
}

/// Why something is not there, if it is not.
#[derive(Clone, Default)]
pub struct Lacks {
    /// Networks and disks of their own.
    pub own_world: Option<String>,
    /// The switch.
    pub switch: Option<String>,
    /// The library between peers and their disks and clocks.
    pub shim: Option<String>,
}

impl Lacks {
    fn reason(&self, want: Want) -> Option<&String> {
        match want {
            Want::Disk => self.own_world.as_ref(),
            Want::Switch => self.switch.as_ref(),
            Want::Shim => self.shim.as_ref(),
        }
    }
}

/// A chat under fire.
pub struct Chat {
    arena: Arena,
    pulse: Pulse,
    setting: Setting,
    prng: Prng,
    workload: Option<Workload>,
}

impl Chat {
    /// Founds it, and lets people write and read.
    pub async fn found(
        binary: &Path,
        setting: Setting,
        tools: Option<&Tools>,
        pulse: Pulse,
        seed: u64,
    ) -> Result<Self> {
        let own_world = setting.lacks.own_world.is_none();
        let tun = tools.filter(|_| setting.lacks.switch.is_none()).map(Tools::tun);
        let tools = tools.filter(|_| setting.lacks.shim.is_none());
        let (peers, delay) = (setting.peers, setting.delay);
        let arena = Arena::found(Ground { binary, peers, delay, own_world, tun, tools }).await?;
        let workload = Workload::start(arena.world.clone(), setting.rate, seed);
        println!(
            "a chat of {} peers{}{}",
            setting.peers,
            if own_world { ", each on a machine of its own" } else { " on loopback" },
            if setting.delay.is_some() { ", with delays" } else { "" },
        );
        Ok(Self { arena, pulse, setting, prng: Prng::new(seed), workload: Some(workload) })
    }

    /// Plays faults from the deck until the time is over or something is wrong.
    pub async fn live(&mut self, cards: &mut Vec<Fault>, report: &mut Report) -> Result<()> {
        let begun = Instant::now();
        let mut not_for_us = 0;
        while begun.elapsed() < self.setting.lasts && !self.arena.world.history.is_broken() {
            if cards.is_empty() {
                *cards = deck(&mut self.prng, &self.setting.only);
                cards.reverse();
            }
            let fault = cards.pop().context("no fault has such a name")?;
            let lacks = &self.setting.lacks;
            if let Some(why) = fault.wants().and_then(|want| lacks.reason(want)) {
                let skipped = report.skipped.entry(fault.name()).or_insert((0, why.clone()));
                skipped.0 += 1;
                continue;
            }
            let (scene, term) = self.arena.scene().await?;
            let Some(plan) = plan(fault, &scene, &mut self.prng) else {
                not_for_us += 1;
                if not_for_us > NOT_FOR_US_MAX {
                    return Ok(()); // the next chat is larger, or has not begun anew anywhere
                }
                continue;
            };
            not_for_us = 0;
            let mut watch = Watch::begin();
            let round = self.play(&plan, scene, term, &mut watch).await;
            self.judge(fault, &plan, &watch, begun, report);
            let Some(round) = round.with_context(|| format!("in this round: {plan:?}"))? else {
                continue;
            };
            let ended = self.arena.unexpected_ends()?;
            if !ended.is_empty() {
                bail!("{}", ended.join("\n"));
            }
            let row = Row { fault, goes_on: plan.goes_on, delayed: self.setting.delay.is_some() };
            println!(
                "{:>6.1} s  {:<34} {:>8.1} ms {:>8.1} ms to heal{}",
                begun.elapsed().as_secs_f64(),
                fault.name(),
                round.without.as_secs_f64() * 1_000.0,
                round.healed_in.as_secs_f64() * 1_000.0,
                if round.failed_over { "" } else { ", no other host" },
            );
            report.rounds.entry(row).or_default().push(round);
        }
        Ok(())
    }

    /// Tells of each time that the chat stood still although a majority was there.
    fn judge(&self, fault: Fault, plan: &Plan, watch: &Watch, begun: Instant, report: &mut Report) {
        let history = &self.arena.world.history;
        for still in watch.stills(history, &self.pulse) {
            let text = format!(
                "{:.1} s: {}, {:.1} s into chat {}; the machine itself for {:.1} s of it: {plan:?}",
                still.lasted.as_secs_f64(),
                fault.name(),
                still.since.duration_since(begun).as_secs_f64(),
                report.chats + 1,
                still.machine.as_secs_f64(),
            );
            println!("STOOD STILL {text}");
            if still.lasted.saturating_sub(still.machine) > plan.stands_still_max {
                history.problem(format!("stands still: {text}"));
            }
            report.stills.push(text);
        }
    }

    /// One fault, from all well to all well; nothing where the host is not where it should be.
    async fn play(
        &mut self,
        plan: &Plan,
        scene: Scene,
        mut term: u64,
        watch: &mut Watch,
    ) -> Result<Option<Round>> {
        if let Some(target) = plan.first_hand_over_to {
            self.arena.hand_over(target).await?;
            let (host, term_now) = self.arena.settle().await?;
            if host != target {
                return Ok(None);
            }
            term = term_now;
        }
        let history = &self.arena.world.clone().history;
        history.mark();
        let mut at = Instant::now();
        let mut in_force: Vec<Harm> = Vec::new();
        for (pause, step) in &plan.steps {
            at += *pause;
            sleep_until(at.into()).await;
            match step {
                Step::Do(harm) => {
                    in_force.push(harm.clone());
                    watch.note(scene.has_majority(&in_force));
                    self.arena.harm(harm).await?;
                    if harm.is_done_at_once() {
                        history.mark();
                    }
                }
                Step::Undo(harm) => {
                    self.arena.undo(harm).await?;
                    in_force.retain(|one| one != harm);
                    watch.note(scene.has_majority(&in_force));
                }
            }
            at = at.max(Instant::now());
        }
        let lasting = plan.lasting();
        let mut without = None;
        if plan.goes_on {
            without = Some(self.gone_on(GO_ON_LIMIT).await?);
        }
        for harm in &lasting {
            self.arena.await_effect(harm).await?;
        }
        sleep_until((Instant::now() + plan.hold).into()).await;
        if let Some(most) = plan.terms_max {
            let terms = self.arena.term().await.saturating_sub(term);
            if terms > most {
                let text = format!("flaps: {terms} new terms, {most} are allowed: {plan:?}");
                history.problem(text);
            }
        }

        let healing = Instant::now();
        for harm in &lasting {
            self.arena.undo(harm).await?;
            // Who begins anew is back when all is well.
            in_force.retain(|one| one != harm || !harm.renews().is_empty());
            watch.note(scene.has_majority(&in_force));
        }
        if without.is_none() {
            history.mark();
        }
        let without = match without {
            Some(without) => without,
            None => self.gone_on(HEAL_LIMIT).await?,
        };
        let (_, term_now) = self.arena.settle().await?;
        let healed_in = healing.elapsed();
        Ok(Some(Round { without, healed_in, failed_over: term_now > term }))
    }

    /// Until a message is confirmed that was sent after the mark.
    async fn gone_on(&self, limit: Duration) -> Result<Duration> {
        let history = &self.arena.world.history;
        let first = until(limit, "a message confirmed that was sent afterwards", || async {
            history.first_after_mark()
        });
        match first.await {
            Ok(first) => Ok(first),
            Err(error) => Err(error.context(self.arena.cluster.describe().await)),
        }
    }

    /// Lets everyone finish, compares everything, and adds it to the report. What is wrong leaves
    /// the data directories where they are.
    pub async fn end(mut self, lived: Result<()>, report: &mut Report) {
        let checked = match lived {
            Ok(()) => self.check(report).await,
            Err(error) => Err(error),
        };
        let history = &self.arena.world.history;
        let mut problems = history.take_problems();
        problems.extend(checked.err().map(|error| format!("{error:#}")));
        match self.arena.complaints() {
            Ok(complaints) => problems.extend(complaints),
            Err(error) => problems.push(format!("{error:#}")),
        }
        report.chats += 1;
        report.add(history.count(), history.refusals());
        if !problems.is_empty() || self.setting.keep {
            println!("the data directories are left in {}", self.arena.keep());
        }
        report.problems.extend(problems);
    }

    async fn check(&mut self, report: &mut Report) -> Result<()> {
        self.arena.settle().await?;
        self.workload.take().context("it is checked once")?.end().await?;
        let history = &self.arena.world.clone().history;
        let ids = self.arena.ids();
        let feeds = self.arena.cluster.feeds(history.last_confirmed()).await?;
        let (_, feed) = feeds.first().context("peers have feeds")?;
        for problem in check(&feeds, &history.told(&ids)).err().unwrap_or_default() {
            history.problem(problem);
        }
        for problem in history.check(feed, &ids) {
            history.problem(problem);
        }
        let terms: Vec<u64> = feed.iter().filter_map(|line| line.host_term).collect();
        let hosts = terms.len() as u64;
        report.hosts += hosts.saturating_sub(1);
        report.terms_without_host += terms.last().copied().unwrap_or(0).saturating_sub(hosts);
        report.events += feed.len() as u64;

        self.arena.stop_all().await?;
        let mut stores = Stores::of(feed);
        for peer in &self.arena.cluster.peers {
            for problem in stores.check(&peer.name, &peer.data_dir())? {
                history.problem(problem);
            }
        }
        if self.setting.only.is_empty() || self.setting.only.iter().any(|it| "leave".contains(it)) {
            self.arena.everybody_leaves().await.context("everybody leaves")?;
        }
        Ok(())
    }
}
