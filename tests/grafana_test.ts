// SPDX-License-Identifier: Apache-2.0
//
// examples/deploy/grafana.json asks for what lmshm metrics really serves, and leaves nothing out.

import assert from "node:assert/strict";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { FAMILIES, type Family } from "../src/cli/open_metrics.ts";
import { lmshm } from "./support/command_line.ts";
import { faultsOf, metricsOf, type Served, servedIn } from "./support/promql.ts";
import { startWorker, TempDir } from "./support/worker.ts";

interface Panel {
  readonly id: number;
  readonly type: string;
  readonly title: string;
  readonly description?: string;
  readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; h: number };
  readonly targets?: readonly { readonly expr: string; readonly legendFormat: string }[];
}

interface Dashboard {
  readonly panels: readonly Panel[];
  readonly templating: { readonly list: readonly { readonly name: string; definition?: string }[] };
}

const dashboard: Dashboard = JSON.parse(
  readFileSync(new URL("../examples/deploy/grafana.json", import.meta.url), "utf8"),
);
const shown = dashboard.panels.filter(({ type }) => type !== "row");
const targets = shown.flatMap(({ title, targets = [] }) =>
  targets.map((target) => ({ title, ...target }))
);

/** What a worker's metrics are that has stored, found and missed. */
async function servedByWorker(): Promise<Map<string, Served>> {
  using dir = new TempDir();
  mkdirSync(dir.file("kv"));
  const socket = `unix:${dir.file("w.sock")}`;
  await using worker = await startWorker(socket, dir.file("kv"), ["--max-bytes", "0"]);
  const store = `sub@${worker.address}`;
  writeFileSync(dir.file("f"), "x".repeat(10_000));
  assert.equal((await lmshm("put", store, dir.file("f"))).code, 0);
  assert.equal((await lmshm("get", store, "f", "none", "-o", dir.file("out/"))).code, 1);
  const { stdout, code, stderr } = await lmshm("metrics", store);
  assert.equal(code, 0, stderr);
  return servedIn(stdout);
}

test("every query of the Grafana dashboard asks for metrics, labels and values that are served", {
  timeout: 240_000,
}, async () => {
  const served = await servedByWorker();
  assert.ok(targets.length > 30);
  for (const { title, expr, legendFormat } of targets) {
    assert.deepEqual(faultsOf(expr, served), [], `${title}: ${expr}`);
    for (const [, label] of legendFormat.matchAll(/\{\{(\w+)\}\}/g)) {
      const grouping = /\bby \(([^)]*)\)/.exec(expr)?.[1]?.split(", ");
      const has = grouping?.includes(label!) ?? (label === "instance" ||
        metricsOf(expr).every((name) => served.get(name)!.labels.has(label!)));
      assert.ok(has, `${title}: the legend names ${label}, and ${expr} has none`);
    }
  }
  for (const { definition } of dashboard.templating.list) {
    for (const name of metricsOf(definition ?? "")) assert.ok(served.has(name), name);
  }
  // And the other way round: what is wrong is found.
  const wrong: [string, RegExp][] = [
    ["lmshm_worker_client", /lmshm_worker_client is not served/],
    ["rate(lmshm_worker_lookups[5m])", /lmshm_worker_lookups is not served/],
    ['lmshm_worker_lookups_total{results="hit"}', /has no label results/],
    ['lmshm_worker_lookups_total{result="hits"}', /has no result "hits"/],
    ["sum by (verbs) (lmshm_worker_failures_total)", /by verbs: lmshm_worker_failures_total/],
    ["rate(lmshm_worker_clients[5m])", /rate\(\) of lmshm_worker_clients, a gauge/],
    ["histogram_quantile(0.9, lmshm_worker_clients)", /histogram_quantile\(\) of/],
    ["sum(lmshm_up", /no PromQL/],
  ];
  for (const [expr, fault] of wrong) assert.match(faultsOf(expr, served).join("\n"), fault, expr);
});

test("every metric has a place in the Grafana dashboard", () => {
  const used = new Set(targets.flatMap(({ expr }) => metricsOf(expr)));
  for (const { name, kind } of Object.values(FAMILIES) as Family[]) {
    const samples = {
      gauge: [name],
      info: [`${name}_info`],
      counter: [`${name}_total`],
      histogram: [`${name}_bucket`, `${name}_sum`, `${name}_count`],
    };
    for (const sample of samples[kind]) assert.ok(used.has(sample), `${sample} is in no panel`);
  }
});

test("the panels of the Grafana dashboard explain themselves, and cover none of each other", () => {
  const panels = dashboard.panels;
  assert.equal(new Set(panels.map(({ id }) => id)).size, panels.length);
  for (const { title, description, targets } of shown) {
    assert.ok(title && description && targets!.length > 0, title);
  }
  for (const [index, { title, gridPos: a }] of panels.entries()) {
    assert.ok(a.x + a.w <= 24, title);
    for (const { title: other, gridPos: b } of panels.slice(0, index)) {
      const apart = a.x + a.w <= b.x || b.x + b.w <= a.x || a.y + a.h <= b.y || b.y + b.h <= a.y;
      assert.ok(apart, `${title} covers ${other}`);
    }
  }
});
