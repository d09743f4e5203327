"use strict";
// Asks for a snapshot each second and shows it. Text only ever goes in as text.

const INTERVAL_MS = 1000;
const STAGES = ["encode", "prefill", "decode"];
const FULL_WORK = 8;

const find = (id) => document.getElementById(id);
const number = (value) => value === null ? "–" : value >= 10 ? value.toFixed(0) : value.toFixed(1);
const clock = (seconds) => new Date(seconds * 1000).toISOString().slice(11, 19);

function element(name, text, ...classes) {
  const made = document.createElement(name);
  made.textContent = text;
  made.classList.add(...classes.filter(Boolean));
  return made;
}

function work(pod) {
  return STAGES.reduce((sum, stage) => sum + pod.outstanding[stage], 0);
}

// Tiles stay the same elements, so that a change of role is a change of colour.
function showFleet(pods) {
  const fleet = find("fleet");
  const most = Math.max(FULL_WORK, ...pods.map(work));
  const known = new Map([...fleet.children].map((tile) => [tile.dataset.pod, tile]));
  for (const pod of pods) {
    let tile = known.get(pod.name);
    if (!tile) {
      tile = element("li", "");
      tile.dataset.pod = pod.name;
      tile.append(element("b", pod.name), element("span", ""), element("span", ""),
        document.createElement("progress"));
      fleet.append(tile);
    }
    known.delete(pod.name);
    tile.className = `pod ${pod.role}${pod.healthy ? "" : " out"}`;
    const [, role, load, bar] = tile.children;
    role.textContent = pod.healthy ? pod.role : `${pod.role}, ${pod.state}`;
    const cache = pod.kv_used_percent === null ? "" : `, KV ${pod.kv_used_percent.toFixed(0)} %`;
    load.textContent = `${STAGES.map((s) => pod.outstanding[s]).join(" / ")}${cache}`;
    bar.max = most;
    bar.value = work(pod);
    tile.title = `${pod.name}: ${pod.role}, ${pod.state}`;
  }
  for (const gone of known.values()) gone.remove();
}

function showObjective(slo) {
  const attained = find("attained");
  attained.textContent = slo.attained_percent === null ? "–" : `${slo.attained_percent} %`;
  const met = slo.attained_percent === null || slo.attained_percent >= slo.attainment_percent;
  attained.className = slo.attained_percent === null ? "" : met ? "good" : "bad";
  find("attained-label").textContent =
    `of ${slo.requests} requests within the objective; wanted ${slo.attainment_percent} %`;
  for (const name of ["ttft", "tpot"]) {
    const reached = slo[`${name}_reached_ms`];
    const limit = slo[`${name}_ms`];
    find(name).textContent = reached === null ? "–" : `${number(reached)} ms`;
    find(name).className = reached !== null && reached > limit ? "bad" : "";
    find(`${name}-label`).textContent =
      `${name.toUpperCase()}, ${slo.attainment_percent}th percentile; at most ${limit} ms`;
  }
}

function showStages(stages) {
  find("stages").replaceChildren(...stages.map((stage) => {
    const row = document.createElement("tr");
    const share = stage.of_slo_percent;
    const cells = [stage.stage, stage.count, stage.failed, stage.outstanding,
      number(stage.p50_ms), number(stage.p90_ms), number(stage.handoff_p90_ms)];
    row.append(...cells.map((cell) => element("td", String(cell))));
    row.append(element("td", share === null ? "–" : `${share} %`, share > 100 && "bad"));
    return row;
  }));
}

function showRequests(requests) {
  find("requests").replaceChildren(...requests.map((request) => {
    const line = element("li", "");
    line.append(element("span", request.id.slice(-8), "id"));
    for (const hop of request.hops) {
      const mark = hop.overflow ? " (overflow)" : "";
      const chip = element("span", `${hop.stage} ${hop.pod}${mark}`, "hop", hop.stage,
        hop.running && "running", hop.failure && "failed");
      if (hop.failure) chip.title = hop.failure;
      line.append(chip);
    }
    const sum = request.status === null ? `${request.age_s} s, running`
      : request.status === 200 ? `${number(request.ttft_ms)} ms, ${request.output_tokens} tokens`
        : `status ${request.status}`;
    line.append(element("span", sum, "sum", request.status >= 500 && "bad"));
    return line;
  }));
}

function decisions(snapshot) {
  const lines = [];
  const control = snapshot.control;
  const explained = new Set();
  if (control) {
    const wants = Object.entries(control.desired).map(([role, pods]) => `${role} ${pods}`);
    const what = `${control.time.slice(11, 19)} ${control.mode}: ${control.hold || "flips"}; ` +
      `wants ${wants.join(", ")}`;
    lines.push([what, control.problem || control.reasons.join("; ")]);
    for (const made of control.recent || []) {
      for (const flip of made.enacted) {
        explained.add(`${flip.pod} ${flip.to}`);
        lines.push([`${made.time.slice(11, 19)} ${flip.pod}: ${flip.from} → ${flip.to}`,
          made.reasons.join("; ")]);
      }
    }
  }
  for (const flip of snapshot.flips) {
    if (!explained.has(`${flip.pod} ${flip.to}`)) {
      lines.push([`${clock(flip.time)} ${flip.pod}: ${flip.from} → ${flip.to}`, ""]);
    }
  }
  return lines.length ? lines : [["No role has changed yet", ""]];
}

function showDecisions(snapshot) {
  find("decisions").replaceChildren(...decisions(snapshot).map(([what, why]) => {
    const line = element("li", what);
    if (why) line.append(element("div", why, "why"));
    return line;
  }));
}

function show(snapshot) {
  document.title = `${snapshot.cluster || "epd"} · epd`;
  find("cluster").textContent = `${snapshot.cluster}: ${snapshot.models.join(", ")}`;
  find("traffic").textContent = `${snapshot.requests_per_s} requests/s, ` +
    `${snapshot.output_tokens_per_s} tokens/s, ${snapshot.in_flight} in flight, ` +
    `${snapshot.failed} failed, ${snapshot.retried} retried (last ${snapshot.window_s.toFixed(0)} s)` +
    ` · roster ${snapshot.roster_version}`;
  complain(snapshot.missing_stages.length
    ? `Not ready: no pod for ${snapshot.missing_stages.join(" and ")}` : "");
  showObjective(snapshot.slo);
  showFleet(snapshot.pods);
  find("legend").textContent = "Below a role: pieces of work of encode / prefill / decode.";
  showStages(snapshot.stages);
  showRequests(snapshot.requests);
  showDecisions(snapshot);
  document.body.dataset.version = snapshot.roster_version;
}

function complain(what) {
  find("trouble").textContent = what;
  find("trouble").hidden = !what;
}

async function look() {
  try {
    const answer = await fetch("/snapshot", { cache: "no-store" });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    show(await answer.json());
  } catch (error) {
    complain(`The gateway does not answer (${error.message}); looking again each second.`);
  }
  setTimeout(look, INTERVAL_MS);
}

look();
