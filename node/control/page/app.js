// The page of a node: what docs/control-api.md describes, drawn. Text from the node is set as text, never as HTML.

const STATUS_INTERVAL_MS = 5_000;
const SLOW_INTERVAL_MS = 60_000;
const SEGMENTS_SHOWN_MAX = 200; // a larger file is said in words
const BEST_FIRST = ["proved", "slow", "corrupt", "missing", "unreachable"];
const STATE_WORDS = {
  proved: "proved just now",
  slow: "proved, but slowly",
  corrupt: "damaged",
  missing: "its holder does not have it",
  unreachable: "its holder does not answer",
  none: "nobody is known to hold it",
};
const NAT_WORDS = {
  local: "on this network only",
  public: "others reach it from outside",
  "behind-nat": "behind a NAT: others can't reach it",
};

const token = takeToken();
const $ = (id) => document.getElementById(id);

/** The token is in the fragment once; afterwards this tab remembers it, and the address no longer shows it. */
function takeToken() {
  const given = location.hash.slice(1);
  if (given) {
    sessionStorage.setItem("token", given);
    history.replaceState(null, "", location.pathname);
  }
  return sessionStorage.getItem("token") ?? "";
}

class CallError extends Error {}

/** One call of the control API: its result, or a CallError with a line for people. */
async function call(command, request = {}, onProgress = () => {}) {
  let response;
  try {
    response = await fetch(`/v1/${command}`, {
      method: "POST",
      headers: { authorization: `Bearer ${token}` },
      body: JSON.stringify(request),
    });
  } catch {
    throw new CallError("The node does not answer. Is `cairn run` still running?");
  }
  if (response.status === 401) {
    throw new CallError("This address has no valid token. Open the one that `cairn run` printed, or `cairn url`.");
  }
  for await (const line of lines(response.body)) {
    const [[name, value]] = Object.entries(JSON.parse(line));
    if (name === "progress") onProgress(value);
    if (name === "error") throw new CallError(value.message);
    if (name === "result") return value;
  }
  throw new CallError("The node stopped in the middle of its answer.");
}

async function* lines(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    yield* parts;
  }
}

/** An element with a class, text, and children. */
function make(tag, { className = "", text, ...properties } = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.className = className;
  if (text !== undefined) element.textContent = text;
  element.append(...children);
  return element;
}

function size(bytes) {
  let value = bytes;
  for (const unit of ["bytes", "kB", "MB", "GB", "TB"]) {
    if (value < 1000 || unit === "TB") return unit === "bytes" ? `${value} bytes` : `${value.toFixed(1)} ${unit}`;
    value /= 1000;
  }
}

function span(seconds) {
  for (const [length, one] of [[86_400, "day"], [3_600, "hour"], [60, "minute"]]) {
    const count = Math.floor(seconds / length);
    if (count) return `${count} ${one}${count === 1 ? "" : "s"}`;
  }
  return `${Math.max(0, Math.floor(seconds))} s`;
}

const ago = (timeS) => (timeS === null ? "not known" : `${span(Date.now() / 1000 - timeS)} ago`);
const day = (timeS) => new Date(timeS * 1000).toISOString().slice(0, 10);

function list(element, texts) {
  element.replaceChildren(...texts.map((text) => make("li", { text })));
}

function trouble(error) {
  $("trouble").hidden = error === null;
  $("trouble").textContent = error?.message ?? "";
}

async function showStatus() {
  const status = await call("status");
  const { store, donor, audits } = status;
  const standing = [`${status.peers} ${status.peers === 1 ? "peer" : "peers"} connected`, `up ${span(status.uptime_s)}`];
  if (NAT_WORDS[status.nat]) standing.push(NAT_WORDS[status.nat]);
  $("standing").textContent = standing.join(" · ");
  const share = store.cap_bytes ? Math.min(1, store.used_bytes / store.cap_bytes) : 0;
  $("bar").firstElementChild.style.width = `${(share * 100).toFixed(1)}%`;
  $("bar").setAttribute("aria-label", `${(share * 100).toFixed(0)} % of what is given is used`);
  $("given").textContent = store.cap_bytes
    ? `${size(store.used_bytes)} of ${size(store.cap_bytes)} used, for ${store.shards} shards of others`
    : "Nothing yet: `cairn donate 20GiB` gives some disk and starts to earn credit.";
  list($("donor"), donorLines(donor, audits, store, status.renewals));
}

function donorLines(donor, audits, store, renewals) {
  const found = [];
  if (donor.leaving) found.push("Takes nothing new since `cairn drain`; `cairn donate SIZE` ends that.");
  if (donor.suspended) found.push(`Takes nothing new since ${ago(donor.suspended.since)}: ${donor.suspended.reason}.`);
  if (audits.suspended) found.push(`Suspended by audits: ${audits.trouble ?? "they were missed"}.`);
  if (audits.passed || audits.failed || audits.missed) {
    found.push(`Others checked it: ${audits.passed} passed, ${audits.failed} failed, ${audits.missed} missed.`);
  }
  if (audits.last_passed) found.push(`The last check passed ${ago(audits.last_passed)}.`);
  if (store.lost) found.push(`${store.lost} leases were lost here.`);
  if (store.quarantined) found.push(`${store.quarantined} shards are damaged, and are never served.`);
  if (renewals.failing) found.push(`${renewals.failing} files could not be renewed: ${renewals.why}.`);
  return found;
}

async function showCredit() {
  const credit = await call("credit");
  list($("credit"), credit.words);
  $("accounts").hidden = credit.peers.length === 0;
  list($("accounts").lastElementChild, credit.peers.map((peer) => `${peer.account.slice(0, 14)}… ${peer.words}`));
}

async function showFiles() {
  $("look").disabled = true;
  try {
    const { files } = await call("ls");
    $("files").hidden = files.length === 0;
    $("files-note").textContent = files.length ? "" : "No files yet: `cairn put FILE` stores one and prints its link.";
    $("files").tBodies[0].replaceChildren(...files.map(fileRow));
  } finally {
    $("look").disabled = false;
  }
}

function fileRow(file) {
  const check = make("button", { type: "button", text: "Check" });
  const copy = make("button", { type: "button", text: "Copy link" });
  const open = make("button", { type: "button", text: "Open" });
  const row = make(
    "tr",
    {},
    make("td", { className: "name", text: file.name }),
    make("td", { text: size(file.bytes) }),
    make("td", {}, make("span", { className: `health ${file.health}`, text: file.health })),
    make("td", { text: ago(file.last_proved) }),
    make("td", { text: day(file.expires) }),
    make("td", { className: "actions" }, check, " ", copy, " ", open),
  );
  act(check, () => showShards(row, file));
  act(copy, async () => {
    const { link } = await call("link", { link: file.hash });
    await navigator.clipboard.writeText(link);
    $("files-note").textContent = "The link is copied. Whoever has it can read the file.";
  });
  act(open, async () => {
    const { link } = await call("link", { link: file.hash });
    await showEntries(link, null);
    $("open-title").scrollIntoView({ behavior: "smooth" });
  });
  return row;
}

/** What a button does: once at a time, and what goes wrong is said on top of the page. */
function act(button, action) {
  button.addEventListener("click", async () => {
    button.disabled = true;
    trouble(null);
    try {
      await action();
    } catch (error) {
      trouble(error);
    } finally {
      button.disabled = false;
    }
  });
}

async function showShards(row, file) {
  const old = row.nextElementSibling;
  if (old?.classList.contains("shard-row")) old.remove();
  const note = make("p", { className: "faint", text: "asking every holder …" });
  const cell = make("td", { colSpan: 6 }, note);
  row.after(make("tr", { className: "shard-row" }, cell));
  const progress = ({ done_segments: done, total_segments: total }) => {
    if (total) note.textContent = `asking every holder: ${done} of ${total} segments …`;
  };
  try {
    cell.replaceChildren(shardPicture(await call("health", { link: file.hash }, progress)));
  } catch (error) {
    note.textContent = error.message;
  }
}

/** Every segment a row, every shard a cell in the colour of the best answer that a holder gave for it. */
function shardPicture(health) {
  const shown = health.segments.slice(0, SEGMENTS_SHOWN_MAX);
  const picture = make("div", { className: "shards" }, ...shown.map(segmentRow));
  if (health.segments.length > shown.length) {
    const rest = health.segments.slice(shown.length);
    const bad = rest.filter((segment) => segment.alive < segment.needed).length;
    picture.append(make("p", { className: "faint", text: `and ${rest.length} segments more, ${bad} of them out of reach` }));
  }
  const needed = shown[0]?.needed;
  picture.append(
    make("p", { className: "faint", text: `Any ${needed} shards of a segment restore it.` }),
    make(
      "div",
      { className: "legend" },
      ...Object.entries(STATE_WORDS).map(([state, words]) =>
        make("span", {}, make("i", { className: `cell ${state}` }), words),
      ),
    ),
  );
  return picture;
}

function segmentRow(segment) {
  const best = new Map();
  for (const holder of segment.holders) {
    const old = best.get(holder.shard);
    if (!old || BEST_FIRST.indexOf(holder.state) < BEST_FIRST.indexOf(old.state)) best.set(holder.shard, holder);
  }
  const cells = Array.from({ length: segment.total }, (_, shard) => {
    const holder = best.get(shard);
    const state = holder?.state ?? "none";
    const proved = holder ? `, last proved ${ago(holder.last_proved)}` : "";
    return make("i", { className: `cell ${state}`, title: `shard ${shard}: ${STATE_WORDS[state]}${proved}` });
  });
  const words = `segment ${segment.index}: ${segment.alive} of ${segment.total} shards proved, any ${segment.needed} restore it`;
  const row = make("div", { className: "cells", role: "img" }, ...cells);
  row.setAttribute("aria-label", words);
  return make(
    "div",
    { className: "segment", title: words },
    make("span", { text: `${segment.alive} of ${segment.total} proved` }),
    row,
  );
}

/** The entries behind a link, each of which opens in a tab of its own or is saved. */
async function showEntries(link, password) {
  $("open-note").textContent = "looking for it …";
  $("entries").replaceChildren();
  try {
    const { entries } = await call("ls", { link, password });
    $("open-note").textContent = "";
    $("entries").append(...entries.map((entry) => entryItem(link, password, entry)));
  } catch (error) {
    $("open-note").textContent = error.message;
  }
}

function entryItem(link, password, entry) {
  const button = make("button", { type: "button", text: entry.path });
  act(button, async () => {
    const { url } = await call("url", { link: `${link}/${entry.path}`, password });
    window.open(url, "_blank", "noopener");
  });
  return make("li", {}, button, ` ${size(entry.bytes)}`);
}

/** Show now, and again after each interval while somebody looks. */
function keepShowing(show, intervalMs) {
  const once = async () => {
    if (!document.hidden) {
      try {
        await show();
        trouble(null);
      } catch (error) {
        trouble(error);
      }
    }
    setTimeout(once, intervalMs);
  };
  void once();
}

act($("look"), showFiles);
$("open").addEventListener("submit", (event) => {
  event.preventDefault();
  void showEntries($("link").value.trim(), $("password").value || null);
});
keepShowing(showStatus, STATUS_INTERVAL_MS);
keepShowing(showCredit, SLOW_INTERVAL_MS);
showFiles().catch((error) => { $("files-note").textContent = error.message; });
