// Draws one dashboard as Grafana does: its JSON says what, Grafana's components draw it, the data are a Prometheus's.
//
// The page asks for /page.json: {dashboard, from, to, data}, where data has for each panel's id the series of each of
// its queries, [{legend, points: [[seconds, value], ...]}].
import { createTheme, dateTime, EventBusSrv, FieldType, getDisplayProcessor } from "@grafana/data";
import { BarGauge, BigValue, GlobalStyles, PanelChrome, PanelContextProvider, ThemeContext, TimeSeries } from "@grafana/ui";
import { createRoot } from "react-dom/client";

const ROW_HEIGHT = 30; // Grafana's grid
const GAP = 8;
const WIDTH = 1600;
const CELL = (WIDTH - 23 * GAP) / 24;
const theme = createTheme({ colors: { mode: "dark" } });

function place({ x, y, w, h }) {
  return {
    position: "absolute",
    left: x * (CELL + GAP),
    top: y * (ROW_HEIGHT + GAP),
    width: w * CELL + (w - 1) * GAP,
    height: h * ROW_HEIGHT + (h - 1) * GAP,
  };
}

function frames(panel, series) {
  const defaults = panel.fieldConfig.defaults;
  return series.map(({ legend, points }, index) => {
    const config = { color: { mode: "palette-classic" }, ...defaults, displayName: legend, custom: { ...defaults.custom } };
    if (panel.type !== "timeseries") config.color = { mode: "thresholds" };
    const values = points.map((point) => Number(point[1]));
    const [min, max] = [Math.min(0, ...values), Math.max(...values)];
    const state = { seriesIndex: index, displayName: legend, range: { min, max, delta: max - min } };
    const field = { name: legend, type: FieldType.number, values, config, state };
    field.display = getDisplayProcessor({ field, theme });
    const time = { name: "time", type: FieldType.time, values: points.map((point) => point[0] * 1000), config: {} };
    return { refId: legend, name: legend, length: points.length, fields: [time, field] };
  });
}

function last(field) {
  const values = field.values.filter(Number.isFinite);
  return values[values.length - 1];
}

function Empty({ panel }) {
  const style = { height: "100%", display: "flex", alignItems: "center", justifyContent: "center" };
  return <div style={{ ...style, color: theme.colors.text.secondary }}>{panel.fieldConfig.defaults.noValue}</div>;
}

function Lines({ panel, shown, range, width, height }) {
  return (
    <TimeSeries
      frames={shown}
      structureRev={1}
      timeRange={range}
      timeZone="utc"
      width={width}
      height={height}
      legend={{ ...panel.options.legend, calcs: [] }}
    />
  );
}

function Numbers({ panel, shown, width, height }) {
  const field = shown[0].fields[1];
  const sparkline = { y: { ...field, config: { ...field.config, custom: { lineWidth: 1, fillOpacity: 20 } } }, x: shown[0].fields[0] };
  return (
    <BigValue
      theme={theme}
      width={width}
      height={height}
      value={field.display(last(field))}
      sparkline={panel.options.graphMode === "none" ? undefined : sparkline}
      colorMode={panel.options.colorMode}
      graphMode={panel.options.graphMode}
      textMode="value"
    />
  );
}

function Bars({ panel, shown, width, height }) {
  const largest = Math.max(...shown.map((frame) => last(frame.fields[1]) ?? 0));
  const each = Math.min(40, height / shown.length);
  return shown.map((frame) => {
    const field = { ...frame.fields[1], config: { ...frame.fields[1].config, min: 0, max: largest } };
    const value = { ...getDisplayProcessor({ field, theme })(last(field)), title: field.config.displayName };
    return (
      <div key={frame.name} style={{ height: each }}>
        <BarGauge
          theme={theme}
          width={width}
          height={each - 4}
          value={value}
          field={field.config}
          display={getDisplayProcessor({ field, theme })}
          orientation="horizontal"
          displayMode={panel.options.displayMode}
          showUnfilled={panel.options.showUnfilled}
          alignmentFactors={{ title: "cloud.backbone.long", text: "0.00 ms." }}
        />
      </div>
    );
  });
}

const KINDS = { timeseries: Lines, stat: Numbers, bargauge: Bars };

function Panel({ panel, page, range }) {
  const style = place(panel.gridPos);
  const shown = frames(panel, panel.targets.flatMap((target) => page.data[panel.id]?.[target.refId] ?? []));
  const Kind = KINDS[panel.type];
  return (
    <div style={style}>
      <PanelChrome title={panel.title} description={panel.description} width={style.width} height={style.height}>
        {(width, height) =>
          shown.length ? (
            <div style={{ width, height }}>
              <Kind panel={panel} shown={shown} range={range} width={width} height={height} />
            </div>
          ) : (
            <Empty panel={panel} />
          )
        }
      </PanelChrome>
    </div>
  );
}

function Page({ page }) {
  const from = dateTime(page.from * 1000);
  const to = dateTime(page.to * 1000);
  const range = { from, to, raw: { from, to } };
  const bottom = Math.max(...page.dashboard.panels.map(({ gridPos }) => gridPos.y + gridPos.h));
  const heading = { color: theme.colors.text.primary, fontSize: 18, display: "flex", alignItems: "center" };
  return (
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <PanelContextProvider value={{ eventsScope: "global", eventBus: new EventBusSrv(), sync: () => 0 }}>
        <div id="page" style={{ padding: 16, width: WIDTH + 32, background: theme.colors.background.canvas }}>
          <div style={{ ...theme.typography.h3, color: theme.colors.text.primary, marginBottom: 8 }}>{page.dashboard.title}</div>
          <div style={{ position: "relative", height: bottom * (ROW_HEIGHT + GAP) }}>
            {page.dashboard.panels.map((panel) =>
              panel.type === "row" ? (
                <div key={panel.id} style={{ ...place(panel.gridPos), ...heading }}>
                  {panel.title}
                </div>
              ) : (
                <Panel key={panel.id} panel={panel} page={page} range={range} />
              ),
            )}
          </div>
        </div>
      </PanelContextProvider>
    </ThemeContext.Provider>
  );
}

const page = await (await fetch("/page.json")).json();
createRoot(document.getElementById("root")).render(<Page page={page} />);
