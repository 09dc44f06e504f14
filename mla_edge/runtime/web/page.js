"use strict";
// One stream of events fills the page; nothing is asked for while it is paused or hidden.

const $ = (id) => document.getElementById(id);
const REASONS = {
  "lite-confident": "was sure enough to answer alone",
  "escalated": "was asked, for a cheaper tier was unsure",
  "single-tier": "is the only tier",
  "unknown-mode": "answers alone: no threshold is known for these modalities",
  "full-only": "answers alone: no threshold holds for these modalities",
  "one-modality": "was sure of one input, and did not look at the others",
  "dwell": "answers on: a cheaper tier is sure again, but not for long enough",
  "lite-skipped": "was asked at once: a cheaper tier was unsure time and again",
  "unchanged": "said so before, and nothing has changed since",
  "alarm": "answers alone: audits say that the certificate no longer holds",
  "deadline": "answers, for the next tier would be late",
  "heat": "answers, for the board is about to throttle",
  "power": "answers, for the board draws too much",
};
const ABOUT = { ok: "ok", off: "not given", waiting: "waiting", filling: "filling", ended: "ended" };

let about = null, last = null, source = null;
let rows = [], faults = [];
let paused = false, overlaid = true, ended = false;

// ---- what comes in

function connect() {
  if (source || paused || document.hidden) return;
  source = new EventSource("events");
  source.addEventListener("hello", (event) => hello(JSON.parse(event.data)));
  source.addEventListener("tick", (event) => tick(JSON.parse(event.data)));
  source.addEventListener("end", () => {
    // The browser comes back by itself, should another run begin.
    ended = true;
    show("bad", "the run has ended");
  });
  source.onerror = () => {
    show("bad", ended ? "the run has ended" : "no connection; trying again");
    if (source.readyState === EventSource.CLOSED) {
      disconnect();
      setTimeout(connect, 2000);
    }
  };
}

function disconnect() {
  if (source) source.close();
  source = null;
}

function hello(message) {
  about = message;
  rows = []; faults = []; last = null; ended = false;
  $("bundle").textContent = message.bundle;
  $("runs-on").textContent = message.runs_on;
  document.title = `${message.bundle} · mla-edge`;
  $("legend").replaceChildren(...message.tiers.map((name, number) => {
    const item = element("span", name);
    const swatch = document.createElement("i");
    swatch.style.background = `var(--tier-${number})`;
    item.prepend(swatch);
    return item;
  }));
}

function tick(message) {
  rows.push(...message.rows);
  const end = rows.length ? rows[rows.length - 1][0] : 0;
  while (rows.length && rows[0][0] < end - Traces.SPAN_S) rows.shift();
  const isFirst = last === null;
  last = { ...last, ...message };
  showHealth(message);
  if (message.decision) showDecision(message.decision);
  if ("picture" in message) showPicture(message.picture);
  if ("sound" in message) showSound(message.sound);
  showSenses(last);
  if (message.rows.length) showTraces();
  if (message.faults.length || isFirst) showFaults(message.faults);
}

// ---- what it looks like

function element(tag, text, name) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (name) made.className = name;
  return made;
}

function put(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

function show(state, text) {
  $("status").dataset.state = state;
  put("status-text", text);
}

function showHealth(message) {
  const { ok, reason } = message.health;
  const rate = `${message.rate_hz.toFixed(message.rate_hz < 10 ? 1 : 0)} decisions a second`;
  show(ok ? "live" : "bad", ok ? `live, ${rate}` : "stalled");
  $("alarm").hidden = ok;
  if (!ok) put("alarm", reason);
  $("board").hidden = !message.board;
  put("board", message.board);
}

function showDecision(decision) {
  put("label", decision.label);
  $("label").classList.toggle("long", decision.label.length > 6);
  put("confidence", percent(decision.confidence));
  const truth = decision.truth === null ? "" :
    decision.truth === decision.label ? `right: ${decision.truth}` : `truth: ${decision.truth}`;
  const notes = [truth, decision.certificate ? "certified" : "", ...decision.degraded];
  put("decision-note", notes.filter(Boolean).join(" · "));
  const tier = about.tiers.indexOf(decision.tier);
  put("tier", decision.tier);
  $("tier").style.color = `var(--tier-${tier})`;
  put("reason", REASONS[decision.reason] || decision.reason);
  const list = $("best");
  while (list.children.length < decision.best.length) {
    const item = element("li"), track = element("div", undefined, "track");
    track.append(element("i"));
    item.append(element("span"), track, element("span"));
    list.append(item);
  }
  while (list.children.length > decision.best.length) list.lastElementChild.remove();
  decision.best.forEach(([label, share], number) => {
    const [name, track, figure] = list.children[number].children;
    name.textContent = label;
    track.firstChild.style.width = `${100 * share}%`;
    figure.textContent = percent(share);
  });
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

function sense(sensor) {
  const found = Object.entries(about.inputs).find(([, input]) => input.sensor === sensor);
  return found ? found[0] : "";
}

function showPicture(picture) {
  document.querySelector(".picture").hidden = !picture;
  if (!picture) return;
  const [width, height] = picture.size;
  $("screen").style.aspectRatio = `${width} / ${height}`;
  $("screen").style.maxWidth = `calc(62vh * ${width / height})`;
  $("picture").src = `data:image/jpeg;base64,${picture.jpeg}`;
  put("picture-note", `${width} × ${height}`);
  drawOverPicture();
}

function drawOverPicture() {
  if (!last || !last.picture) return;
  const { context, width, height } = Traces.sheet($("picture-over"));
  const [across, down] = last.picture.seen;
  const w = width * across, h = height * down, x = (width - w) / 2, y = (height - h) / 2;
  context.fillStyle = "rgb(0 0 0 / 45%)"; // what the network does not see
  context.beginPath();
  context.rect(0, 0, width, height);
  context.rect(x, y, w, h);
  context.fill("evenodd");
  const attention = last.picture.attention;
  if (!overlaid || !attention) return;
  const [count, columns] = attention.shape;
  if (count === 1) { // of a clip: which of its moments
    drawOverTime(context, attention, width, height);
    return;
  }
  const small = new OffscreenCanvas(columns, count), cells = small.getContext("2d");
  const data = cells.createImageData(columns, count);
  // What counts as much as all others on average is clear, what counts four times that full.
  attention.values.forEach((value, i) => {
    data.data.set([255, 176, 32, 165 * Math.min(Math.max((value - 1) / 3, 0), 1)], 4 * i);
  });
  cells.putImageData(data, 0, 0);
  context.imageSmoothingEnabled = true;
  context.imageSmoothingQuality = "high";
  context.save();
  context.beginPath();
  context.rect(x, y, w, h);
  context.clip();
  context.drawImage(small, x, y, w, h);
  context.restore();
}

// From black over violet and orange to white, as loudness grows.
const HEAT = [[4, 6, 20], [40, 17, 89], [114, 31, 129], [182, 54, 121], [241, 96, 93], [254, 175, 119], [252, 253, 191]];
const SHADES = Array.from({ length: 256 }, (_, i) => {
  const at = (i / 255) * (HEAT.length - 1), low = Math.min(Math.floor(at), HEAT.length - 2);
  return HEAT[low].map((from, c) => from + (HEAT[low + 1][c] - from) * (at - low));
});

let loudest = 0;

function showSound(sound) {
  document.querySelector(".sound").hidden = !sound;
  if (sound) drawSound();
}

function drawSound() {
  if (!last || !last.sound) return;
  const sound = last.sound, [bands, columns] = sound.shape;
  const { context, width, height } = Traces.sheet($("sound"));
  const small = new OffscreenCanvas(columns, bands), cells = small.getContext("2d");
  const data = cells.createImageData(columns, bands), raw = atob(sound.bands);
  // The loudest of the last seconds is white, but a quiet room stays dark.
  let most = 0;
  for (let i = 0; i < raw.length; i++) most = Math.max(most, raw.charCodeAt(i));
  loudest = Math.max(most, loudest * 0.985, 120);
  for (let i = 0; i < raw.length; i++) {
    const level = Math.min((raw.charCodeAt(i) - 0.25 * loudest) / (0.75 * loudest), 1);
    const [r, g, b] = SHADES[Math.round(255 * Math.max(level, 0))];
    data.data.set([r, g, b, 255], 4 * i);
  }
  cells.putImageData(data, 0, 0);
  context.imageSmoothingEnabled = true;
  context.drawImage(small, 0, 0, width, height);
  put("sound-note", `last ${sound.window_s} s · ${sound.from_hz}–${sound.to_hz} Hz · peak ${sound.peak_db} dB`);
  if (!overlaid || !sound.attention) return;
  drawOverTime(context, sound.attention, width, height);
}

// How much comes from when, as steps along the lower edge.
function drawOverTime(context, attention, width, height) {
  const times = attention.shape[1], sums = new Array(times).fill(0);
  attention.values.forEach((value, i) => { sums[i % times] += value; });
  const mean = sums.reduce((a, b) => a + b, 0) / times || 1;
  const most = Math.max(...sums, 3 * mean), room = height * 0.4;
  context.beginPath();
  sums.forEach((sum, i) => {
    const level = height - 2 - (room - 4) * (sum / most);
    context.lineTo((i * width) / times, level);
    context.lineTo(((i + 1) * width) / times, level);
  });
  context.strokeStyle = "rgb(255 176 32)";
  context.lineWidth = 1.5;
  context.stroke();
  context.lineTo(width, height);
  context.lineTo(0, height);
  context.fillStyle = "rgb(255 176 32 / 28%)";
  context.fill();
}

function showSenses(message) {
  const gate = message.gate, ages = message.decision ? message.decision.ages_ms : {};
  const names = about.gated;
  const split = $("split");
  split.hidden = !gate || names.length < 2;
  if (gate && split.children.length !== names.length) {
    split.replaceChildren(...names.map((_, number) => {
      const part = element("i");
      part.style.background = `var(--sense-${number % 4})`;
      return part;
    }));
  }
  const list = $("senses");
  if (list.children.length !== names.length) {
    list.replaceChildren(...names.map((name, number) => {
      const item = element("li"), swatch = element("span", "", "swatch");
      swatch.style.background = `var(--sense-${number % 4})`;
      item.append(swatch, element("span", name), element("span"), element("span", "", "figures"),
        element("span", "", "why"));
      return item;
    }));
  }
  names.forEach((name, number) => {
    const found = message.states[name] || { state: "ok", why: "", used: true };
    const [, , state, figures, why] = list.children[number].children;
    const masked = !found.used && !["off", "waiting"].includes(found.state);
    state.textContent = (ABOUT[found.state] || found.state) + (masked ? ", left out" : "");
    state.className = found.state === "ok" ? "state-ok" : ["off", "waiting", "filling"].includes(found.state) ? "state-wait" : "state-bad";
    figures.replaceChildren();
    if (gate) figures.append(element("b", `${(100 * (gate[name] || 0)).toFixed(0)} %`), " weight");
    if (name in ages) figures.append(`${gate ? " · " : ""}${ages[name].toFixed(0)} ms old`);
    const drops = message.drops[name];
    if (drops) figures.append(` · ${drops} dropped`);
    why.textContent = found.why;
    if (gate) split.children[number].style.flex = `${gate[name] || 0} 0 0`;
    for (const [sensor, id] of [["camera", "picture-masked"], ["microphone", "sound-masked"]]) {
      if (sense(sensor) !== name) continue;
      $(id).hidden = !masked;
      if (masked) put(id, `${name} ${found.state === "ended" ? "has" : "is"} ${found.state} and is left out`);
    }
  });
  const skew = message.decision && Object.keys(ages).length > 1 ? `${message.decision.skew_ms.toFixed(0)} ms apart` : "";
  put("senses-note", [gate ? "" : "this bundle gives no gate weights", skew].filter(Boolean).join(" · "));
}

function showTraces() {
  const shades = about.tiers.map((_, number) => Traces.colour(`--tier-${number}`));
  const shade = (row) => shades[about.tiers.indexOf(row[3])];
  const latency = Traces.draw($("latency"), rows.map((row) => [row[0], row[1], shade(row)]), true);
  const age = Traces.draw($("age"), rows.map((row) => [row[0], row[2]]), false);
  put("latency-note", spread(latency));
  put("age-note", spread(age));
}

function spread({ p50, p99, max }) {
  return Number.isNaN(p50) ? "" : `p50 ${p50.toFixed(1)} · p99 ${p99.toFixed(1)} · max ${max.toFixed(1)} ms`;
}

function showFaults(fresh) {
  faults.push(...fresh);
  faults = faults.slice(-50);
  put("faults-note", faults.length ? "newest first" : "");
  $("faults").replaceChildren(...[...faults].reverse().map((fault) => {
    const item = element("li"), text = element("span");
    const what = fault.good ? "is back" : fault.what === "ended" ? "has ended" : `is ${fault.what}`;
    text.append(element("b", fault.modality), " ",
      element("span", what, fault.good ? "good" : "bad"),
      fault.why ? `: ${fault.why}` : "", fault.masked || fault.good ? "" : " (still used)");
    item.append(element("time", fault.clock), text);
    return item;
  }));
  if (!faults.length) $("faults").replaceChildren(element("li", "none so far", "quiet"));
}

function redraw() {
  if (!last) return;
  drawOverPicture();
  drawSound();
  showTraces();
}

// ---- what a person does

function pause() {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", paused);
  $("pause").firstElementChild.textContent = paused ? "Go on" : "Pause";
  if (paused) { disconnect(); show("wait", "paused"); $("alarm").hidden = true; } else connect();
}

function overlay() {
  overlaid = !overlaid;
  $("attention").setAttribute("aria-pressed", overlaid);
  redraw();
}

function theme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  setTheme(dark ? "light" : "dark");
  try { localStorage.setItem("theme", root.dataset.theme); } catch { /* private windows have none */ }
}

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  redraw();
}

const KEYS = { p: pause, a: overlay, t: theme };
$("pause").onclick = pause;
$("attention").onclick = overlay;
$("theme").onclick = theme;
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const act = KEYS[event.key.toLowerCase()];
  if (act) act();
});
addEventListener("resize", redraw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
try {
  const kept = localStorage.getItem("theme");
  if (kept) setTheme(kept);
} catch { /* private windows have none */ }
connect();
