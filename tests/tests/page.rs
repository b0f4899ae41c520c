//! The page in headless Chromium, on real clusters: it shows what the API says, follows what happens, keeps within its
//! origin, and says when it is stale. `a_picture_for_the_readme`, which is not run by itself, makes `docs/page.png`.

use hf_tests::browser::Browser;
use hf_tests::cluster::{Cluster, http_get, sparse_disk, until};
use hf_tests::http;
use hf_tests::nbd::Nbd;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

fn get(addr: &str, path: &str) -> Result<Value, String> {
    http::get(addr, path)?.good()
}

fn done(addr: &str, method: &str, path: &str, body: &Value) -> Value {
    let good = http::change(addr, method, path, &[], body).and_then(http::Reply::good);
    good.unwrap_or_else(|e| panic!("{method} {path}: {e}"))
}

/// Three nodes in racks of their own; the first has its disk in a directory whose name would be a script if it were
/// taken for markup.
fn cluster(disk: &str) -> Cluster {
    let mut i = 0;
    Cluster::prepared(3, |n| {
        i += 1;
        n.extra = ["--label", &format!("rack=r{i}")].map(str::to_string).to_vec();
        n.disk_size = disk.into();
        if i == 1 {
            n.disk = n.dir.join("disk<script>document.title='taken'<b>");
            sparse_disk(&n.disk, disk);
        }
    })
}

const SCRIPT: &str = "<script>document.title='taken'<b>";

/// The node that leads, as the API of any node tells it.
fn leader(c: &Cluster) -> usize {
    until("a leader", || {
        let said = c.nodes.iter().filter(|n| n.pid().is_some()).find_map(|n| get(&n.http, "/v1/cluster").ok());
        let name = said.as_ref().and_then(|s| s["leader"].as_str()).ok_or("nobody leads")?;
        c.nodes.iter().position(|n| n.name == name && n.pid().is_some()).ok_or("the leader is not there".to_string())
    })
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// The page of a node, open and live.
fn open(b: &Browser, http: &str) {
    b.open(&format!("http://{http}/"));
    b.wait("the page to be live", "document.querySelector('#freshness')?.innerText.includes('Live')");
}

fn go(b: &Browser, hash: &str, sign: &str) {
    b.js(&format!("location.hash = {}", json!(hash)));
    b.wait(&format!("{hash} to show {sign}"), &format!("document.querySelector({})", json!(sign)));
}

/// Nothing was complained about, and nothing was asked of anybody else.
fn clean(b: &Browser, http: &str) {
    let loud: Vec<_> = b.console().into_iter().filter(|(level, _)| level == "SEVERE" || level == "WARNING").collect();
    assert!(loud.is_empty(), "{loud:?}");
    let asked = b.requests();
    assert!(asked.len() > 20, "the log of requests is empty: {asked:?}");
    let own = format!("http://{http}/");
    let foreign: Vec<_> = asked.iter().filter(|u| !u.starts_with(&own) && !u.starts_with("data:")).collect();
    assert!(foreign.is_empty(), "the page asked somebody else: {foreign:?}");
}

#[test]
fn the_page_shows_the_cluster_and_a_node_that_is_killed() {
    let mut c = cluster("512MiB");
    let l = leader(&c);
    let victim = (l + 1) % 3;
    let at = (l + 2) % 3;
    let http = c.nodes[at].http.clone();
    done(
        &http,
        "POST",
        "/v1/volumes",
        &json!({"name": "web", "spec": {"size": "64MiB", "replicas": 3, "label.app": "shop"}}),
    );
    let home = c.nodes[at].name.clone();
    done(&http, "POST", "/v1/volumes/web/attach", &json!({"node": home}));
    let mut nbd = until("the export", || Nbd::connect(&c.nodes[at].nbd, "web").map_err(|e| e.to_string()));
    nbd.write(0, &[7; 1 << 20]).unwrap();
    done(&http, "POST", "/v1/health/mutes", &json!({"code": "POOL_NO_SPARE", "for_seconds": 600, "reason": SCRIPT}));

    let b = Browser::new();
    open(&b, &http);
    overview(&b, &c, &http);
    volume(&b, &mut nbd);
    text_stays_text(&b);
    by_keyboard(&b);
    same_sizes(&b);
    same_types(&b, &http);

    go(&b, "#/", "li.node");
    b.js("(window.shift = 0, new PerformanceObserver((l) => l.getEntries().forEach((e) => (window.shift += e.value))).observe({type: 'layout-shift'}))");
    let name = c.nodes[victim].name.clone();
    b.js(&format!(
        "(window.timer = setInterval(() => {{ if (document.querySelector('li.node[data-node={name}]')?.dataset.state === 'down') {{ window.seen ??= Date.now(); }} }}, 5), 0)"
    ));
    c.nodes[victim].kill();
    let changed =
        until("the leader's change of mind", || match get(&http, &format!("/v1/nodes/{name}"))?["state"].as_str() {
            Some("down") => Ok(unix_ms()),
            s => Err(format!("{name} is {s:?}")),
        });
    b.wait("the page to show it", "window.seen");
    let late = b.js("window.seen").as_u64().unwrap().saturating_sub(changed);
    println!("the page showed it {late} ms after the leader said so");
    assert!(late <= 3000, "{late} ms");
    assert!(b.words(&format!("li.node[data-node={name}]")).contains("down"), "a word says so, not a colour alone");
    health(&b, &http, &name);
    let shift = b.js("window.shift").as_f64().unwrap();
    println!("layout shift while it did: {shift}");
    assert!(shift < 0.1, "{shift}");
    go(&b, "#/volumes/web", ".verdict[data-state=degraded]");
    assert!(!b.words(".verdict .why").is_empty(), "the state has a reason");
    b.wait("the reason of the replica", "document.querySelector('li.copy:not([data-state=in_sync]) .why')");
    clean(&b, &http);
}

fn overview(b: &Browser, c: &Cluster, http: &str) {
    b.wait("all nodes", "document.querySelectorAll('li.node[data-state=up]').length === 3");
    b.wait("all disks", "document.querySelectorAll('li.disk[data-state=ok]').length === 3");
    let map = b.words(".map");
    for n in &c.nodes {
        assert!(map.contains(&n.name), "{map}");
    }
    assert!(map.contains("r1") && map.contains("leader"), "{map}");
    let raw = get(http, "/v1/cluster").unwrap()["capacity"]["raw_bytes"].as_u64().unwrap();
    assert!(b.words(".capacity").contains(&hf_policy::format_size(raw)), "{}", b.words(".capacity"));
    assert!(b.words(".capacity").contains("Spare"));
}

/// What the page says of health is what the API says.
fn health(b: &Browser, http: &str, down: &str) {
    until("the page's codes to be those of the API", || {
        let said = get(http, "/v1/health")?;
        let items = said["items"].as_array().cloned().unwrap_or_default();
        let open: Vec<_> = items.iter().filter(|i| i["muted"] == false).collect();
        let shown = b.words("#app");
        let missing = open.iter().find(|i| {
            let has = |k: &str| shown.contains(i[k].as_str().unwrap());
            !(has("code") && has("means") && has("action"))
        });
        match missing {
            Some(i) => Err(format!("not shown: {i} in {shown}")),
            None if open.iter().any(|i| i["code"] == "NODE_DOWN" && i["subject"] == format!("node/{down}")) => Ok(()),
            None => Err(format!("the API does not say that {down} is down: {items:?}")),
        }
    });
}

fn volume(b: &Browser, nbd: &mut Nbd) {
    go(b, "#/volumes/web", ".verdict[data-volume=web][data-state=ok]");
    assert_eq!(b.js("document.querySelectorAll('li.copy[data-state=in_sync]').length"), 3);
    let said = b.words("#app");
    for words in ["64MiB", "app=shop", "Writable", "Redundant", "min_replicas", "volume.created"] {
        assert!(said.contains(words), "{words} is not in {said}");
    }
    until("a history with the writes in it", || {
        nbd.write(0, &[9; 1 << 20]).unwrap();
        let labels =
            b.js("[...document.querySelectorAll('hf-chart')].map((c) => c.ariaLabel ?? c.getAttribute('aria-label'))");
        let label = labels[0].as_str().unwrap_or_default().to_string();
        let drawn = b.js("document.querySelectorAll('hf-chart canvas').length") == 3;
        if drawn && label.contains("write p99") && !label.ends_with('–') {
            Ok(())
        } else {
            Err(format!("{labels} {}", b.words("#app")))
        }
    });
}

/// Names and texts that others chose are shown as they are.
fn text_stays_text(b: &Browser) {
    go(b, "#/nodes", "table.disks tbody tr");
    assert!(b.words("table.disks").contains(SCRIPT), "{}", b.words("table.disks"));
    go(b, "#/events", "table.events tbody tr");
    b.wait(
        "the event of the mute",
        &format!("document.querySelector('table.events').innerText.includes({})", json!(SCRIPT)),
    );
    assert_eq!(b.js("document.querySelectorAll('#app script, table.disks b, table.events b').length"), 0);
    assert!(b.js("document.title").as_str().unwrap().contains("Holdfast"));
}

/// From the top of the page to the volumes without a mouse; everything that takes the focus has a name.
fn by_keyboard(b: &Browser) {
    const TAB: &str = "\u{E004}";
    const ENTER: &str = "\u{E007}";
    go(b, "#/", "li.node");
    b.js("(document.activeElement.blur(), scrollTo(0, 0), document.querySelector('.skip').focus(), document.activeElement.blur(), 0)");
    let focused = || b.js("document.activeElement.innerText").as_str().unwrap_or_default().to_string();
    let mut way = Vec::new();
    for _ in 0..8 {
        b.press(TAB);
        way.push(focused());
        if way.last().is_some_and(|w| w == "Volumes") {
            break;
        }
    }
    assert_eq!(way.last().map(String::as_str), Some("Volumes"), "{way:?}");
    b.press(ENTER);
    b.wait("the volumes", "location.hash === '#/volumes' && document.querySelector('table.volumes')");
    assert_eq!(focused(), "Volumes", "the focus is on the new heading");
    assert_eq!(b.js("document.activeElement.tagName"), "H1");
    let nameless = b.js(
        "[...document.querySelectorAll('a, button, input, select, progress, [role=img]')].filter((e) => !(e.innerText?.trim() || e.getAttribute('aria-label') || e.labels?.[0]?.innerText.trim())).map((e) => e.outerHTML)",
    );
    assert_eq!(nameless, json!([]));
}

/// Sizes read as the daemon and the command line write them.
fn same_sizes(b: &Browser) {
    let mut sizes = vec![0, 1, 1023, 1024, 1025, 9 << 27, 11 << 27, 21 << 27, (1 << 53) - 1, 1_125 << 20];
    let mut x = 88_172_645_463_325_252u64;
    for _ in 0..2000 {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        // Of every order of magnitude; every other one with few digits, where two decimals are a tie more often.
        let n = x >> (11 + x % 43);
        sizes.push(if x.is_multiple_of(2) { n } else { n & !0xf_ffff });
    }
    let said = b.promised(&format!("import('/ui/app/format.js').then((f) => {}.map(f.size))", json!(sizes)));
    for (n, said) in sizes.iter().zip(said.as_array().unwrap()) {
        assert_eq!(said.as_str().unwrap(), hf_policy::format_size(*n), "{n}");
    }
}

/// The fields that the page's types name are those of the API.
fn same_types(b: &Browser, http: &str) {
    let doc = get(http, "/openapi.json").unwrap();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../storage-node/web/app/types.js");
    let types = hf_tests::browser::typedefs(&std::fs::read_to_string(file).unwrap());
    assert!(types.len() > 20, "{types:?}");
    for (name, fields) in types {
        let theirs =
            doc["components"]["schemas"][&name]["properties"].as_object().unwrap_or_else(|| panic!("no {name}"));
        let unknown: Vec<_> = fields.iter().filter(|f| !theirs.contains_key(*f)).collect();
        // Of a problem the page knows what it shows.
        let missing: Vec<_> = theirs.keys().filter(|k| name != "Problem" && !fields.contains(*k)).collect();
        assert!(
            unknown.is_empty() && missing.is_empty(),
            "app/types.js, {name}: not in the API: {unknown:?}; lacks: {missing:?}"
        );
    }
    assert_eq!(b.promised("fetch('/ui/app/types.js').then((r) => r.status)"), 404, "types are for editors");
    let head = http_get(http, "/").unwrap();
    assert!(head.contains("default-src 'self'") && !head.contains("unsafe"), "{head}");
    b.console();
}

/// Volumes of the large table; on a slow machine as many as are made in [`MAKING`], and at least [`FEW`].
const MANY: usize = 1000;
const FEW: usize = 200;
const MAKING: Duration = Duration::from_secs(12);

/// Makes volumes `v0000` and on, every tenth for the bank; how many.
fn many_volumes(http: &str) -> usize {
    let (next, began) = (AtomicUsize::new(0), Instant::now());
    let enough = |i: usize| i >= MANY || i >= FEW && began.elapsed() > MAKING;
    let make = || {
        loop {
            // A number that was taken is made, so that no name is left out.
            let taken = next.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |i| (!enough(i)).then_some(i + 1));
            let Ok(i) = taken else { return };
            let app = if i % 10 == 0 { "bank" } else { "shop" };
            let spec = json!({"size": "4MiB", "replicas": 1, "label.app": app});
            done(http, "POST", "/v1/volumes?wait=0", &json!({"name": format!("v{i:04}"), "spec": spec}));
        }
    };
    std::thread::scope(|s| (0..8).for_each(|_| drop(s.spawn(make))));
    let made = next.into_inner();
    println!("{made} volumes took {:?}", began.elapsed());
    made
}

#[test]
fn a_thousand_volumes_are_paged_and_filtered() {
    let c = cluster("64GiB");
    let http = c.nodes[leader(&c)].http.clone();
    let made = many_volumes(&http);
    let b = Browser::new();
    open(&b, &http);
    let shown = |n: usize| {
        format!(
            "document.querySelectorAll('table.volumes tbody tr').length === {n} && document.querySelector('table.volumes').ariaBusy === 'false'"
        )
    };
    let first = "document.querySelector('table.volumes tbody tr').dataset.volume";
    let began = Instant::now();
    go(&b, "#/volumes?limit=50", "table.volumes tbody tr");
    println!("the table was there in {:?}", began.elapsed());
    b.wait("the first page", &shown(50));
    assert_eq!(b.js(first), "v0000");
    assert!(b.words(".pager").contains(&format!("about {made}")), "{}", b.words(".pager"));
    let click = |name: &str| {
        b.js(&format!("[...document.querySelectorAll('.pager a')].find((a) => a.innerText === '{name}').click()"))
    };
    click("Next");
    b.wait("the second page", &format!("{first} === 'v0050' && {}", shown(50)));
    click("Next");
    b.wait("the third page", &format!("{first} === 'v0100'"));
    click("Back");
    b.wait("the second page again", &format!("{first} === 'v0050'"));
    go(&b, "#/volumes?limit=200", "table.volumes tbody tr");
    b.wait("a large page", &shown(200));
    b.js("(document.querySelector('input[name=name]').focus(), 0)");
    b.press("v019");
    b.wait("the filter by name", &format!("{} && location.hash.includes('name=v019')", shown(10)));
    go(&b, "#/volumes?label=app%3Dbank&limit=50", "table.volumes tbody tr");
    b.wait("the filter by label", &format!("{} && {first} === 'v0000' && document.querySelectorAll('table.volumes tbody tr')[1].dataset.volume === 'v0010'", shown(made.div_ceil(10).min(50))));
    assert_eq!(
        b.js("document.querySelector('input[name=label]').value"),
        "app=bank",
        "a filter of the address is in its field"
    );
    go(&b, "#/volumes?name=nothing-has-this-name", ".note.empty");
    go(&b, "#/volumes?name=v0199", "tr[data-volume=v0199]");
    done(&http, "DELETE", "/v1/volumes/v0199", &json!({}));
    b.wait("the deleted volume to be gone", "document.querySelector('.note.empty')");
    clean(&b, &http);
}

#[test]
fn the_page_goes_on_after_its_leader_and_says_when_it_is_stale() {
    let mut c = cluster("512MiB");
    let l = leader(&c);
    let at = (l + 1) % 3;
    let http = c.nodes[at].http.clone();
    let b = Browser::new();
    open(&b, &http);
    go(&b, "#/volumes", ".note.empty");
    let old = c.nodes[l].name.clone();
    c.nodes[l].kill();
    b.wait(
        "the page to name the new leader",
        &format!("/leader n\\d/.test(document.querySelector('.who').innerText) && !document.querySelector('.who').innerText.includes('leader {old}')"),
    );
    assert!(b.words("#freshness").contains("Live"), "{}", b.words("#freshness"));
    done(&http, "POST", "/v1/volumes", &json!({"name": "after", "spec": {"size": "4MiB", "replicas": 2}}));
    b.wait("what happened under the new leader", "document.querySelector('tr[data-volume=after]')");
    go(&b, "#/", "li.node");
    b.wait("the dead node", &format!("document.querySelector('li.node[data-node={old}]').dataset.state === 'down'"));

    // Its own node ends and comes back: the page says so, and goes on.
    c.nodes[at].kill();
    b.wait("the page to miss its node", "!document.querySelector('#freshness').innerText.includes('Live')");
    // A quarter of a minute passes for the page.
    b.js("((now) => (window.back = () => (Date.now = now), Date.now = () => now() + 16000, 0))(Date.now)");
    b.wait("the page to say that it is stale", "document.querySelector('#freshness').innerText.includes('Stale')");
    assert!(b.words(".freshness").contains("since"), "{}", b.words(".freshness"));
    b.js("(window.back(), 0)");
    c.nodes[at].start();
    b.wait("the page to be live again", "document.querySelector('#freshness').innerText.includes('Live')");

    // The last but one goes: this node hears no leader, and says how old its view is.
    let other = (0..3).find(|i| *i != l && *i != at).unwrap();
    until("a leader", || get(&http, "/v1/cluster").and_then(|s| s["leader"].as_str().map(drop).ok_or("none".into())));
    c.nodes[other].kill();
    b.wait(
        "the page to say that nobody leads",
        "document.querySelector('#freshness').innerText.includes('hears no leader')",
    );
    c.nodes[l].start();
    b.wait("the page to be live with a leader", "document.querySelector('#freshness').innerText.includes('Live') && document.querySelector('.who').innerText.includes('leader n')");
}

/// Writes docs/page.png, if `HOLDFAST_PICTURE` is set: for when the page looks different.
#[test]
fn a_picture_for_the_readme() {
    if std::env::var_os("HOLDFAST_PICTURE").is_none() {
        return;
    }
    let mut c = Cluster::prepared(3, |n| {
        let rack = n.name.replace('n', "r");
        n.extra = ["--label", &format!("rack={rack}")].map(str::to_string).to_vec();
        n.disk_size = "4GiB".into();
        n.second_disk("4GiB");
    });
    let l = leader(&c);
    let http = c.nodes[l].http.clone();
    for (name, size) in [("db", "1GiB"), ("mail", "2GiB"), ("registry", "1GiB"), ("web", "512MiB")] {
        done(&http, "POST", "/v1/volumes", &json!({"name": name, "spec": {"size": size, "replicas": 2}}));
        done(&http, "POST", &format!("/v1/volumes/{name}/attach"), &json!({"node": c.nodes[l].name}));
        let mut nbd = until("the export", || Nbd::connect(&c.nodes[l].nbd, name).map_err(|e| e.to_string()));
        (0..96u8).for_each(|i| nbd.write(u64::from(i) << 20, &vec![i + 1; 1 << 20]).unwrap());
    }
    let b = Browser::with(1380, 960, hf_tests::browser::Scheme::Light);
    open(&b, &http);
    c.nodes[(l + 1) % 3].kill();
    b.wait("the dead node", "document.querySelector('li.node[data-state=down]')");
    until("the degraded volumes", || match get(&http, "/v1/cluster")?["volumes"]["degraded"].as_u64() {
        Some(n) if n > 1 => Ok(()),
        n => Err(format!("{n:?}")),
    });
    b.wait("the codes of both", "document.querySelectorAll('.codes > li').length > 1");
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/page.png");
    b.picture(&file);
    let bytes = std::fs::metadata(&file).unwrap().len();
    assert!(bytes > 20_000 && bytes <= 150_000, "{bytes} bytes");
}
