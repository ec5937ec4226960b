// Keeps the screen live. Every section is HTML from the server; this module only fetches a section again when the stream
// says that it changed, and says loudly when the stream has stopped. Nothing here decides what is good or bad.
const STALE_MS = 5000; // no news for this long: the whole screen is stale
const GATHER_MS = 150; // changes within this time are one fetch
const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

// ---- freshness: counted by this machine's own monotonic clock, from the arrival of each event
let lastNews = performance.now(), madeAt = new WeakMap(), pageAt = performance.now(), sound = null;
const age = ms => {
  const s = Math.floor(ms / 1000);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${String(s % 60).padStart(2, "0")} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${String(Math.floor(s / 60) % 60).padStart(2, "0")} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor(s / 3600) % 24} h`;
};
const bornAt = element => madeAt.get(element.closest("[data-part]")) ?? pageAt;
const setText = (element, text) => { if (element.textContent !== text) element.textContent = text; };
function tick() {
  const now = performance.now(), silent = now - lastNews, stale = silent > STALE_MS;
  for (const e of $$("[data-age]")) setText(e, age(+e.dataset.age + now - bornAt(e)));
  for (const e of $$("[data-left]")) setText(e, age(Math.max(0, +e.dataset.left - (now - bornAt(e)))));
  const news = $("#news");
  if (news) setText(news, silent < 10000 ? `${(silent / 1000).toFixed(1)} s` : age(silent));
  if (stale !== document.body.classList.contains("is-stale")) {
    document.body.classList.toggle("is-stale", stale);
    $("#stale").hidden = !stale;
    if (stale) beep();
  }
  if (stale) setText($("#stale-s"), String(Math.floor(silent / 1000)));
}
function beep() {
  try {
    sound ??= new AudioContext();
    const tone = sound.createOscillator();
    tone.frequency.value = 440;
    tone.connect(sound.destination);
    tone.start();
    tone.stop(sound.currentTime + 0.4);
  } catch { /* A browser without sound still shows it. */ }
}

// ---- sections
const waiting = new Map(), busy = new Set(), held = new Map();
function changed(topic, device) {
  for (const part of $$("[data-part]")) {
    if (!part.dataset.on.split(" ").includes(topic)) continue;
    if (part.dataset.device && device && part.dataset.device !== device) continue;
    if (waiting.has(part)) continue;
    waiting.set(part, setTimeout(() => fetchPart(part), +part.dataset.every || GATHER_MS));
  }
}
async function fetchPart(part) {
  if (busy.has(part)) return void waiting.set(part, setTimeout(() => fetchPart(part), GATHER_MS));
  waiting.delete(part);
  busy.add(part);
  const at = performance.now();
  try {
    const answer = await fetch(`/part/${part.dataset.part}`);
    if (answer.ok) show(part, await answer.text(), at);
  } catch { /* The stream notices by itself that the server is gone. */ } finally { busy.delete(part); }
}
const rows = root => new Map($$("[data-row]", root).map(row => [row.id, row]));
// Rows do not move under the pointer, the focus or a reader who has scrolled: new ones wait behind a bar.
function reading(part) {
  if (!("hold" in part.dataset)) return false;
  return part.matches(":hover, :focus-within") || part.getBoundingClientRect().top < -80 || $$(".scroll", part).some(e => e.scrollTop > 0);
}
function show(part, html, at) {
  const fresh = document.createElement("div");
  fresh.innerHTML = html;
  const old = rows(part), next = rows(fresh);
  const added = [...next.keys()].filter(id => !old.has(id)).length;
  if (added && old.size && reading(part)) {
    held.set(part, { html, at });
    for (const [id, row] of next) { const mine = old.get(id); if (mine && !mine.contains(document.activeElement)) { const open = $$("details[open]", mine).map(e => e.id); mine.className = row.className; mine.innerHTML = row.innerHTML; $$("details", mine).forEach(e => (e.open = open.includes(e.id))); } }
    let bar = $(".new", part);
    if (!bar) {
      bar = document.createElement("button");
      bar.type = "button";
      bar.className = "new";
      bar.addEventListener("click", () => release(part));
      ($("h2", part) ?? part.firstElementChild).after(bar);
    }
    setText(bar, `${added} new`);
    return;
  }
  replace(part, fresh, at);
}
function release(part) {
  const kept = held.get(part);
  if (!kept) return;
  const fresh = document.createElement("div");
  fresh.innerHTML = kept.html;
  replace(part, fresh, kept.at);
  changedPart(part);
}
const changedPart = part => { if (!waiting.has(part)) waiting.set(part, setTimeout(() => fetchPart(part), 0)); };
function replace(part, fresh, at) {
  held.delete(part);
  const focus = document.activeElement, row = focus?.closest?.("[data-row]"), inside = part.contains(focus);
  const place = inside && row ? $$("a,button,[tabindex]", row).indexOf(focus) : -1;
  const open = $$("details[open][id]", part).map(e => e.id);
  const scrolls = $$(".scroll", part).map(e => [e.scrollLeft, e.scrollTop]);
  part.replaceChildren(...fresh.childNodes);
  open.forEach(id => document.getElementById(id)?.setAttribute("open", ""));
  madeAt.set(part, at);
  $$(".scroll", part).forEach((e, i) => scrolls[i] && ([e.scrollLeft, e.scrollTop] = scrolls[i]));
  if (inside && row) { const again = document.getElementById(row.id); (place >= 0 ? $$("a,button,[tabindex]", again ?? part)[place] : again)?.focus({ preventScroll: true }); }
  tick();
}

// ---- stream; the browser resumes it with Last-Event-ID. After a lag, or without it, all sections are fetched.
let stream, lost = false;
function listen() {
  stream?.close();
  stream = new EventSource("/api/v1/stream");
  const heard = topic => event => {
    lastNews = performance.now();
    if (topic === "beat") { changed("beat"); return; }
    let device;
    if (topic === "points") { try { device = JSON.parse(event.data).device; } catch { /* fetch all */ } }
    changed(topic, device);
  };
  for (const topic of ["beat", "points", "sources", "alarms", "tickets", "services", "ledger"]) stream.addEventListener(topic, heard(topic));
  stream.addEventListener("open", () => { if (lost) $$("[data-part]").forEach(changedPart); lost = false; });
  stream.addEventListener("error", () => { lost = true; if (stream.readyState === EventSource.CLOSED) setTimeout(listen, 2000); });
}

// ---- keys
let leader = false;
function step(by) {
  const all = $$("[data-row]");
  if (!all.length) return;
  const at = all.findIndex(row => row.contains(document.activeElement));
  const row = all[at < 0 ? (by > 0 ? 0 : all.length - 1) : Math.min(all.length - 1, Math.max(0, at + by))];
  const target = $("a", row) ?? row;
  if (target === row) row.tabIndex = -1;
  target.focus();
  row.scrollIntoView({ block: "nearest" });
}
const go = { n: "/", d: "/devices", l: "/timeline", t: "#tickets", s: "#sites" };
addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName)) return;
  const key = event.key;
  if (leader) { leader = false; if (go[key]) { event.preventDefault(); location.href = go[key].startsWith("#") && !$(go[key]) ? "/" + go[key] : go[key]; } return; }
  if (key === "j") step(1);
  else if (key === "k") step(-1);
  else if (key === "g") leader = true;
  else if (key === ".") [...held.keys()].forEach(release);
  else if (key === "?") $("#keys").showModal();
  else if (key === "/") { event.preventDefault(); $("#search").focus(); }
});
$("#help").hidden = false;
$("#help").addEventListener("click", () => $("#keys").showModal());

// ---- history plot of one point, with the same values as a table
const RANGES = { "1 h": 3600e3, "6 h": 6 * 3600e3, "1 d": 86400e3, "7 d": 7 * 86400e3, "30 d": 30 * 86400e3 };
const plot = $("#plot");
let plotted = null, range = "1 h";
document.addEventListener("click", event => {
  const link = event.target.closest?.("[data-plot]");
  if (!link || !plot) return;
  event.preventDefault();
  plotted = { point: link.dataset.plot, unit: link.dataset.unit };
  draw();
  plot.focus();
});
const local = t => new Date(t).toLocaleString("en-GB", { timeZone: "Europe/Brussels", dateStyle: "short", timeStyle: "medium" });
async function draw() {
  plot.hidden = false;
  setText($("#plot-title"), `History of ${plotted.point}${plotted.unit ? " in " + plotted.unit : ""}`);
  $("#plot-range").replaceChildren(...Object.keys(RANGES).map(name => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.setAttribute("aria-pressed", String(name === range));
    button.addEventListener("click", () => { range = name; draw(); });
    return button;
  }));
  const body = $("#plot-body"), to = Date.now(), from = to - RANGES[range];
  body.innerHTML = "<p class=\"empty\">Loading …</p>";
  const ask = new URLSearchParams({ device: plot.dataset.device, point: plotted.point, from: new Date(from).toISOString(), to: new Date(to).toISOString() });
  try {
    const answer = await fetch(`/api/v1/history?${ask}`);
    if (!answer.ok) throw new Error(`the server says ${answer.status}`);
    const data = await answer.json();
    // Long ranges come as buckets: their average is drawn.
    const readings = (data.samples ?? data.buckets ?? []).map(r => ({ t: r.t, v: r.avg ?? (typeof r.value === "number" ? r.value : null), q: r.quality ?? `${r.min} to ${r.max}, ${r.n} values` }));
    body.replaceChildren(...picture(readings, from, to), table(readings));
  } catch (error) {
    body.innerHTML = "<p class=\"alert\"></p>";
    body.firstChild.textContent = `The history cannot be shown: ${error.message}`;
  }
}
function picture(readings, from, to) {
  const good = readings.filter(r => r.v !== null);
  if (!good.length) { const p = document.createElement("p"); p.className = "empty"; p.textContent = "No value is stored for this time."; return [p]; }
  const W = 1000, H = 240, low = Math.min(...good.map(r => r.v)), high = Math.max(...good.map(r => r.v));
  const pad = (high - low || Math.abs(high) || 1) * 0.08, y0 = low - pad, y1 = high + pad;
  const x = t => (t - from) / (to - from) * W, y = v => (y1 - v) / (y1 - y0) * H;
  // A gap of over four usual steps is a hole in the line: nothing is drawn where nothing is known.
  const usual = good.length > 1 ? (good.at(-1).t - good[0].t) / (good.length - 1) : 0;
  let path = "", before = null;
  for (const r of readings) {
    if (r.v === null) { before = null; continue; }
    path += `${before === null || (usual && r.t - before > 4 * usual) ? "M" : "L"}${x(r.t).toFixed(1)} ${y(r.v).toFixed(1)}`;
    before = r.t;
  }
  const label = v => Number(v.toPrecision(4)).toString();
  const marks = [3, 2, 1, 0].map(i => y0 + (y1 - y0) * (i + 0.5) / 4);
  const lines = marks.map(v => `<path class="grid-line" d="M0 ${y(v).toFixed(1)}H${W}"/>`).join("");
  const holder = document.createElement("div");
  holder.className = "plot";
  holder.innerHTML = `<ol aria-hidden="true">${marks.map(v => `<li>${label(v)}</li>`).join("")}</ol><svg viewBox="0 0 ${W} ${H}" preserveAspectRatio="none" role="img">${lines}<path d="${path}"/></svg><p class="x"><span>${local(from)}</span><span>${local(to)}</span></p>`;
  $("svg", holder).setAttribute("aria-label", `${plotted.point}: lowest ${label(low)}, highest ${label(high)}, last ${label(good.at(-1).v)} ${plotted.unit}. The same values follow as a table.`);
  return [holder];
}
function table(readings) {
  const details = document.createElement("details"), last = readings.slice(-500).reverse();
  details.innerHTML = `<summary></summary><div class="scroll" tabindex="0" role="region" aria-label="Values"><table><thead><tr><th scope="col">Time</th><th scope="col" class="n">Value</th><th scope="col">Quality</th></tr></thead><tbody></tbody></table></div>`;
  details.firstChild.textContent = `The last ${last.length} values as a table`;
  $("tbody", details).append(...last.map(r => {
    const row = document.createElement("tr");
    [local(r.t), r.v === null ? "–" : String(r.v), String(r.q)].forEach((text, i) => { const cell = document.createElement("td"); if (i === 1) cell.className = "n"; cell.textContent = text; row.append(cell); });
    return row;
  }));
  return details;
}

listen();
setInterval(tick, 200);
