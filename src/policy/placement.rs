//! Which device a model goes to, and why: the reason is what `ps`, `show` and `why` print.

use thiserror::Error;

use super::admission::Need;
use super::human;

/// What the operator or the request wants (`device.use`, `load --device`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Use {
    /// A GPU if one can hold the model, else the CPU.
    #[default]
    Auto,
    /// A GPU or nothing.
    Gpu,
    /// The CPU.
    Cpu,
}

impl Use {
    /// `auto`, `gpu`, `cpu`.
    pub fn parse(s: &str) -> Option<Self> {
        match s {
            "auto" => Some(Use::Auto),
            "gpu" => Some(Use::Gpu),
            "cpu" => Some(Use::Cpu),
            _ => None,
        }
    }
}

/// Kind of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SiteKind {
    /// Host memory and the CPU's threads.
    Cpu,
    /// A GPU with memory of its own.
    Gpu,
}

/// A device as this policy sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// `cpu`, `gpu0`.
    pub id: String,
    /// Kind.
    pub kind: SiteKind,
    /// Bytes of it that nothing fixed (pinned) holds; of a GPU that shares the machine's memory no
    /// more than it may take.
    pub available: u64,
    /// Bytes a second at which it reads its memory, where that was measured.
    pub bandwidth: Option<f64>,
    /// Layers of a model that are tried there at most, if there is a limit.
    pub layers_max: Option<u32>,
    /// Why it cannot be used at all, if so.
    pub unusable: Option<String>,
}

/// What a model takes of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Index of the device.
    pub site: usize,
    /// Bytes.
    pub need: Need,
}

/// One way to run a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// What it takes of each device, first of the one that it is named after. A GPU's models need
    /// some of the host's memory, too.
    pub shares: Vec<Share>,
    /// Layers on the first device, if the CPU has those before them.
    pub layers: Option<u32>,
}

impl Way {
    /// All of the model on the device `site`.
    pub fn whole(site: usize, need: Need) -> Self {
        Self { shares: vec![Share { site, need }], layers: None }
    }

    /// The device that it is named after.
    pub fn site(&self) -> usize {
        self.shares[0].site
    }

    /// What it takes of device `site`, if anything.
    pub fn on(&self, site: usize) -> Option<Need> {
        self.shares.iter().find(|s| s.site == site).map(|s| s.need)
    }
}

/// All ways to run a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Ways, of which those with more layers on a GPU come later.
    pub ways: Vec<Way>,
    /// Layers of the model.
    pub n_layer: u32,
}

/// How a model is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Where.
    pub device: Use,
    /// So many layers on the GPU, the last ones (`load --gpu-layers`).
    pub gpu_layers: Option<u32>,
}

/// Where a model goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// How it is run.
    pub way: Way,
    /// For people.
    pub reason: String,
}

/// Why there is no place.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PlacementError {
    /// A GPU was demanded and there is none that works.
    #[error("device `gpu` was asked for, but {0}")]
    NoGpu(String),
    /// No device at all.
    #[error("no device can run models: {0}")]
    NoDevice(String),
    /// Layers on a GPU and none of it.
    #[error("{0} layers were asked for on the GPU, and device `cpu`: one of both")]
    Contradiction(u32),
}

/// Chooses how a model is run. On a GPU as a whole if it fits there when everything unpinned
/// leaves; else with as many layers there as fit, if that is faster than the CPU alone; else on
/// the CPU. What is demanded is not passed over: admission refuses it there, with numbers.
///
/// # Errors
/// [`PlacementError`], which names every device that was passed over.
pub fn place(sites: &[Site], needs: &Needs, wish: Wish) -> Result<Placement, PlacementError> {
    let choice = Choice { sites, needs };
    match (wish.device, wish.gpu_layers) {
        (Use::Cpu, Some(n @ 1..)) => Err(PlacementError::Contradiction(n)),
        (Use::Gpu, Some(0)) => Err(PlacementError::NoGpu("no layers on it, too".to_owned())),
        (Use::Cpu, _) | (_, Some(0)) => choice.cpu(Vec::new(), "cpu asked for"),
        (_, Some(n)) if n < needs.n_layer => choice.demanded(Some(n)),
        (Use::Gpu, _) | (_, Some(_)) => choice.demanded(None),
        (Use::Auto, None) => choice.best(),
    }
}

/// What a step that crosses from the CPU to a GPU takes besides, in seconds.
const CROSSING: f64 = 0.5e-3;

struct Choice<'a> {
    sites: &'a [Site],
    needs: &'a Needs,
}

impl Choice<'_> {
    fn ways(&self, kind: SiteKind, layers: Option<u32>) -> impl Iterator<Item = &Way> {
        self.needs.ways.iter().filter(move |w| self.sites[w.site()].kind == kind && w.layers == layers)
    }

    /// Whether all its devices can hold it.
    fn fits(&self, way: &Way) -> bool {
        way.shares.iter().all(|s| s.need.total() <= self.sites[s.site].available)
    }

    /// `gpu0: 5 GiB needed, 4 GiB can be had`, of the device that lacks most.
    fn numbers(&self, way: &Way) -> String {
        let lack = |s: &&Share| i128::from(s.need.total()) - i128::from(self.sites[s.site].available);
        let share = way.shares.iter().max_by_key(lack).unwrap_or(&way.shares[0]);
        let site = &self.sites[share.site];
        format!("{}: {} needed, {} can be had", site.id, human(share.need.total()), human(site.available))
    }

    fn cpu(&self, mut passed: Vec<String>, otherwise: &str) -> Result<Placement, PlacementError> {
        let Some(way) = self.ways(SiteKind::Cpu, None).next() else {
            passed.extend(passed.is_empty().then(|| "none was found".to_owned()));
            return Err(PlacementError::NoDevice(passed.join("; ")));
        };
        let site = &self.sites[way.site()];
        if let Some(why) = &site.unusable {
            passed.push(format!("{}: {why}", site.id));
            return Err(PlacementError::NoDevice(passed.join("; ")));
        }
        let reason = if passed.is_empty() { otherwise.to_owned() } else { passed.join("; ") };
        Ok(Placement { way: way.clone(), reason })
    }

    /// On a GPU, all of it or `layers` of its layers.
    fn demanded(&self, layers: Option<u32>) -> Result<Placement, PlacementError> {
        let what = layers.map_or(String::new(), |n| format!(" with {n} of {} layers", self.needs.n_layer));
        let (mut passed, mut second) = (Vec::new(), None);
        for way in self.ways(SiteKind::Gpu, layers) {
            let site = &self.sites[way.site()];
            match &site.unusable {
                Some(why) => passed.push(format!("{}: {why}", site.id)),
                None if self.fits(way) => {
                    let share = way.shares[0].need.total();
                    let numbers = format!("{} needed, {} can be had", human(share), human(site.available));
                    let reason = format!("{} asked for{what}: {numbers}", site.id);
                    return Ok(Placement { way: way.clone(), reason });
                }
                None => second = second.or(Some(way)),
            }
        }
        match second {
            Some(way) => Ok(Placement { way: way.clone(), reason: format!("gpu asked for{what}") }),
            None if passed.is_empty() => {
                // Nothing can be divided, or there is nothing to divide with.
                let gpus = self.sites.iter().filter(|s| s.kind == SiteKind::Gpu);
                let whys = gpus.filter_map(|s| s.unusable.as_ref().map(|why| format!("{}: {why}", s.id)));
                let whys: Vec<String> = whys.collect();
                let none = || "there is no usable GPU".to_owned();
                Err(PlacementError::NoGpu(if whys.is_empty() { none() } else { whys.join("; ") }))
            }
            None => Err(PlacementError::NoGpu(passed.join("; "))),
        }
    }

    fn best(&self) -> Result<Placement, PlacementError> {
        let mut passed = Vec::new();
        for way in self.ways(SiteKind::Gpu, None) {
            let site = &self.sites[way.site()];
            match &site.unusable {
                Some(why) => passed.push(format!("{}: {why}", site.id)),
                None if site.layers_max.is_some_and(|most| most < self.needs.n_layer) => {
                    passed.push(format!("{}: less than all layers are tried there", site.id));
                }
                None if self.fits(way) => {
                    let numbers = self.numbers(way);
                    let reason = numbers.replacen(':', " fits:", 1);
                    return Ok(Placement { way: way.clone(), reason });
                }
                None => passed.push(self.numbers(way)),
            }
        }
        if let Some((way, layers)) = self.best_split() {
            let all = self.needs.n_layer;
            passed.push(format!("{} takes {layers} of {all} layers", self.sites[way.site()].id));
            return Ok(Placement { way: way.clone(), reason: passed.join("; ") });
        }
        self.cpu(passed, "no GPU is used")
    }

    /// The split with most layers on a GPU that fits and is worth it.
    fn best_split(&self) -> Option<(&Way, u32)> {
        let usable = |w: &Way, layers: u32| {
            let site = &self.sites[w.site()];
            site.unusable.is_none() && site.layers_max.is_none_or(|most| layers <= most)
        };
        let splits = self.needs.ways.iter().filter_map(|w| Some((w, w.layers?)));
        let fitting = splits.filter(|(w, layers)| usable(w, *layers) && self.fits(w) && self.worth_it(w));
        fitting.max_by_key(|(_, layers)| *layers)
    }

    /// Whether a step of it is faster than one of the CPU alone, by the bytes that each reads; a
    /// model that only fits with a GPU's help always is.
    fn worth_it(&self, way: &Way) -> bool {
        let Some(alone) = self.ways(SiteKind::Cpu, None).next() else { return true };
        let seconds = |way: &Way| {
            let each = |s: &Share| Some(s.need.weights as f64 / self.sites[s.site].bandwidth?);
            way.shares.iter().map(each).sum::<Option<f64>>()
        };
        match (seconds(way), seconds(alone)) {
            (Some(split), Some(cpu)) => !self.fits(alone) || split + CROSSING < cpu,
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn site(id: &str, kind: SiteKind, available: u64, unusable: Option<&str>) -> Site {
        let unusable = unusable.map(str::to_owned);
        Site { id: id.to_owned(), kind, available, bandwidth: None, layers_max: None, unusable }
    }

    fn weights(weights: u64) -> Need {
        Need { weights, ..Need::default() }
    }

    /// A model of ten layers of 5 bytes on GPUs and the CPU, which is the last.
    fn needs(sites: usize) -> Needs {
        let cpu = sites - 1;
        let share = |site, need| Share { site, need: weights(need) };
        let split = |gpu, n: u32| Way {
            shares: vec![share(gpu, u64::from(5 * n)), share(cpu, u64::from(5 * (10 - n)))],
            layers: Some(n),
        };
        let mut ways: Vec<Way> = (0..cpu).flat_map(|gpu| (1..10).map(move |n| split(gpu, n))).collect();
        ways.extend((0..sites).map(|site| Way::whole(site, weights(50))));
        Needs { ways, n_layer: 10 }
    }

    fn wish(device: Use) -> Wish {
        Wish { device, gpu_layers: None }
    }

    #[test]
    fn the_reason_names_what_was_passed_over() {
        let cpu = site("cpu", SiteKind::Cpu, 100, None);
        let p = place(&[site("gpu0", SiteKind::Gpu, 4, None), cpu.clone()], &needs(2), wish(Use::Auto));
        let p = p.expect("the CPU");
        assert_eq!((p.way.site(), p.reason.as_str()), (1, "gpu0: 50 B needed, 4 B can be had"));
        let p = place(&[site("gpu0", SiteKind::Gpu, 60, None), cpu.clone()], &needs(2), wish(Use::Auto));
        let p = p.expect("the GPU");
        assert_eq!((p.way.site(), p.reason.as_str()), (0, "gpu0 fits: 50 B needed, 60 B can be had"));
        let broken = site("gpu0", SiteKind::Gpu, 60, Some("/dev/kfd: permission denied"));
        for gpu_layers in [None, Some(3), Some(99)] {
            let wish = Wish { device: Use::Gpu, gpu_layers };
            let e = place(&[broken.clone(), cpu.clone()], &needs(2), wish).expect_err("demanded").to_string();
            assert_eq!(e, "device `gpu` was asked for, but gpu0: /dev/kfd: permission denied");
        }
        let alone = place(std::slice::from_ref(&cpu), &needs(1), wish(Use::Auto));
        assert_eq!(alone.expect("admission decides later").reason, "no GPU is used");
    }

    #[test]
    fn as_many_layers_as_fit_go_to_the_gpu_if_that_is_faster() {
        let mut sites = [site("gpu0", SiteKind::Gpu, 34, None), site("cpu", SiteKind::Cpu, 100, None)];
        let layers = |sites: &[Site]| place(sites, &needs(2), wish(Use::Auto)).expect("a place").way.layers;
        let p = place(&sites, &needs(2), wish(Use::Auto)).expect("a place");
        assert_eq!(p.reason, "gpu0: 50 B needed, 34 B can be had; gpu0 takes 6 of 10 layers");
        assert_eq!((p.way.layers, p.way.on(0), p.way.on(1)), (Some(6), Some(weights(30)), Some(weights(20))));
        // The rest must fit beside it.
        sites[1].available = 19;
        assert_eq!(place(&sites, &needs(2), wish(Use::Auto)).expect("admission refuses").way.site(), 1);
        sites[1].available = 20;
        assert_eq!(layers(&sites), Some(6));
        (sites[0].bandwidth, sites[1].bandwidth) = (Some(1000.0), Some(100.0));
        sites[1].available = 100;
        assert_eq!(layers(&sites), Some(6));
        // A GPU as slow as the CPU is not worth the crossing, unless the model fits nowhere else.
        sites[0].bandwidth = Some(100.0);
        assert_eq!(layers(&sites), None);
        sites[1].available = 40;
        assert_eq!(layers(&sites), Some(6));
        sites[0].layers_max = Some(4);
        assert_eq!(layers(&sites), Some(4));
    }

    #[test]
    fn layers_that_were_asked_for_are_not_changed() {
        let sites = [site("gpu0", SiteKind::Gpu, 34, None), site("cpu", SiteKind::Cpu, 100, None)];
        let layers = |n| place(&sites, &needs(2), Wish { device: Use::Auto, gpu_layers: Some(n) });
        for n in 1..10 {
            assert_eq!(layers(n).expect("admission decides").way.layers, Some(n));
        }
        assert_eq!(layers(2).expect("fits").reason, "gpu0 asked for with 2 of 10 layers: 10 B needed, 34 B can be had");
        assert_eq!(layers(9).expect("admission refuses").reason, "gpu asked for with 9 of 10 layers");
        for n in [10, 11, 99] {
            let way = layers(n).expect("admission refuses").way;
            assert_eq!((way.site(), way.layers), (0, None));
        }
        assert_eq!(layers(0).expect("the CPU").way.site(), 1);
        let e = place(&sites, &needs(2), Wish { device: Use::Cpu, gpu_layers: Some(3) }).expect_err("nonsense");
        assert!(e.to_string().contains("3 layers"), "{e}");
    }

    proptest! {
        #[test]
        fn a_choice_is_allowed_and_usable(
            sites in prop::collection::vec((0u64..100, any::<bool>()), 0..6),
            cpu in 0u64..100,
            device in prop_oneof![Just(Use::Auto), Just(Use::Gpu), Just(Use::Cpu)],
            gpu_layers in prop::option::of(0u32..12),
        ) {
            let gpu = |(i, &(available, broken)): (usize, &(u64, bool))| {
                site(&format!("d{i}"), SiteKind::Gpu, available, broken.then_some("broken"))
            };
            let mut sites: Vec<Site> = sites.iter().enumerate().map(gpu).collect();
            sites.push(site("cpu", SiteKind::Cpu, cpu, None));
            let needs = needs(sites.len());
            let Ok(p) = place(&sites, &needs, Wish { device, gpu_layers }) else {
                prop_assert!(device != Use::Auto || gpu_layers.is_some());
                return Ok(());
            };
            prop_assert!(needs.ways.contains(&p.way) && !p.reason.is_empty());
            prop_assert!(p.way.shares.iter().all(|s| sites[s.site].unusable.is_none()));
            let fits = |w: &Way| w.shares.iter().all(|s| s.need.total() <= sites[s.site].available);
            let on_gpu = sites[p.way.site()].kind == SiteKind::Gpu;
            match gpu_layers {
                Some(n) => prop_assert_eq!(p.way.layers, Some(n).filter(|n| (1..10).contains(n))),
                None if device == Use::Auto => {
                    prop_assert!(!on_gpu || fits(&p.way));
                    // Nothing that fits has more layers on a GPU.
                    let layers = |w: &Way| w.layers.unwrap_or(if sites[w.site()].kind == SiteKind::Gpu { 10 } else { 0 });
                    let usable = |w: &&Way| sites[w.site()].unusable.is_none() && fits(w);
                    let most = needs.ways.iter().filter(usable).map(layers).max().unwrap_or(0);
                    prop_assert_eq!(layers(&p.way), most);
                }
                None => prop_assert_eq!(on_gpu, device == Use::Gpu),
            }
        }
    }
}
