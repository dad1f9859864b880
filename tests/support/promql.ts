// SPDX-License-Identifier: Apache-2.0
//
// What is wrong with a query of Prometheus, given what is really served: read with the grammar of
// Prometheus's own editor.

import { parser } from "@prometheus-io/lezer-promql";

/** One metric as it is served: its kind, and the values that each of its labels has. */
export interface Served {
  readonly type: string;
  readonly labels: ReadonlyMap<string, ReadonlySet<string>>;
}

/** What Prometheus adds to every sample. */
const TARGET_LABELS = ["instance", "job"];

/** By the names of samples, such as "x_total" and "x_bucket". @param text OpenMetrics */
export function servedIn(text: string): Map<string, Served> {
  const types = new Map<string, string>();
  const served = new Map<string, { type: string; labels: Map<string, Set<string>> }>();
  for (const line of text.split("\n")) {
    const [, family, type] = /^# TYPE (\S+) (\S+)$/.exec(line) ?? [];
    if (family !== undefined) types.set(family, type!);
    const [, name, pairs = ""] = /^([a-z_]+)(?:\{(.*)\})? \S+$/.exec(line) ?? [];
    if (name === undefined) continue;
    const plain = name.replace(/_(?:bucket|sum|count|total|info)$/, "");
    const one = served.get(name) ??
      { type: types.get(name) ?? types.get(plain) ?? "unknown", labels: new Map() };
    served.set(name, one);
    for (const [, label, value] of pairs.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) {
      const values = one.labels.get(label!) ?? new Set();
      one.labels.set(label!, values.add(value!));
    }
  }
  return served;
}

type Node = ReturnType<typeof parser.parse>["topNode"];

function within(node: Node, name: string): Node[] {
  const found: Node[] = [];
  for (let child = node.firstChild; child !== null; child = child.nextSibling) {
    if (child.name === name) found.push(child);
    found.push(...within(child, name));
  }
  return found;
}

/** Everything that is wrong with a query; empty when all is well. */
export function faultsOf(query: string, served: ReadonlyMap<string, Served>): string[] {
  const expr = query.replaceAll("$__rate_interval", "5m");
  const tree = parser.parse(expr);
  const faults: string[] = [];
  const textOf = (node: Node | null) => node === null ? "" : expr.slice(node.from, node.to);
  tree.iterate({
    enter: ({ type, from }) => {
      if (type.isError) faults.push(`no PromQL at ${from}`);
    },
  });
  const metricsIn = (node: Node) =>
    within(node, "VectorSelector").map((one) => textOf(one.getChild("Identifier")));
  const knows = (metric: string, label: string) =>
    TARGET_LABELS.includes(label) || served.get(metric)?.labels.has(label) === true;

  for (const selector of within(tree.topNode, "VectorSelector")) {
    const metric = textOf(selector.getChild("Identifier"));
    const one = served.get(metric);
    if (one === undefined) {
      faults.push(`${metric} is not served`);
      continue;
    }
    for (const matcher of within(selector, "UnquotedLabelMatcher")) {
      const label = textOf(matcher.getChild("LabelName"));
      const value = textOf(matcher.getChild("StringLiteral")).slice(1, -1);
      if (!knows(metric, label)) faults.push(`${metric} has no label ${label}`);
      else if (textOf(matcher.getChild("MatchOp")) === "=" && !one.labels.get(label)?.has(value)) {
        faults.push(`${metric} has no ${label} "${value}"`);
      }
    }
  }
  for (const aggregate of within(tree.topNode, "AggregateExpr")) {
    for (const grouping of within(aggregate, "LabelName")) {
      if (grouping.parent!.name !== "GroupingLabels") continue;
      const label = textOf(grouping);
      for (const metric of metricsIn(aggregate)) {
        if (!knows(metric, label)) faults.push(`by ${label}: ${metric} has no such label`);
      }
    }
  }
  for (const call of within(tree.topNode, "FunctionCall")) {
    const name = textOf(call.getChild("FunctionIdentifier"));
    for (const metric of metricsIn(call)) {
      const type = served.get(metric)?.type;
      if (name === "rate" && type !== "counter" && type !== "histogram") {
        faults.push(`rate() of ${metric}, a ${type}`);
      }
      if (name === "histogram_quantile" && !metric.endsWith("_bucket")) {
        faults.push(`histogram_quantile() of ${metric}`);
      }
    }
  }
  return faults;
}

/** The names of all metrics in a query. */
export function metricsOf(query: string): string[] {
  return [...query.matchAll(/\blmshm_\w+/g)].map(([name]) => name);
}
