// Checks dashboards against the types of Grafana's release: `node check.mjs FILE...`; one line for each fault.
//
// The types become a JSON Schema that allows no key they do not name. A panel's options and field configuration are
// open in the dashboard's own types: they are checked against those of the panel's kind.
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import Ajv from "ajv";
import { createGenerator } from "ts-json-schema-generator";

const here = dirname(fileURLToPath(import.meta.url));
const types = join(here, "node_modules/@grafana/schema/dist/esm/raw");
const plugins = {
  timeseries: "timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen.d.ts",
  stat: "stat/panelcfg/x/StatPanelCfg_types.gen.d.ts",
  bargauge: "bargauge/panelcfg/x/BarGaugePanelCfg_types.gen.d.ts",
};

function validator(path, type) {
  const schema = createGenerator({ path: join(types, path), type, skipTypeCheck: true, additionalProperties: false })
    .createSchema(type);
  return new Ajv({ strict: false, allErrors: true }).compile(schema);
}

const dashboards = validator("dashboard/x/dashboard_types.gen.d.ts", "Dashboard");
const options = {};
const custom = {};
for (const [kind, file] of Object.entries(plugins)) {
  options[kind] = validator(`composable/${file}`, "Options");
  custom[kind] = kind === "timeseries" ? validator(`composable/${file}`, "FieldConfig") : null;
}

function faults(check, value, where) {
  return check(value) ? [] : check.errors.map((e) => `${where}${e.instancePath} ${e.message} ${JSON.stringify(e.params)}`);
}

let found = [];
for (const file of process.argv.slice(2)) {
  const dashboard = JSON.parse(readFileSync(file, "utf8"));
  found = found.concat(faults(dashboards, dashboard, `${file}: `));
  for (const panel of dashboard.panels.filter((p) => p.type !== "row")) {
    const where = `${file}: ${panel.title}: `;
    if (!(panel.type in plugins)) found.push(`${where}unknown kind ${panel.type}`);
    else {
      found = found.concat(faults(options[panel.type], panel.options, `${where}options`));
      if (custom[panel.type]) found = found.concat(faults(custom[panel.type], panel.fieldConfig.defaults.custom, `${where}custom`));
    }
  }
}
for (const fault of found) console.log(fault);
process.exit(found.length ? 1 : 0);
