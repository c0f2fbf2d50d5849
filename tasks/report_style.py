"""The look of report.html: one style sheet, light or dark as the reader's system is, nothing from elsewhere."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f5f6f4; --card: #ffffff; --ink: #191d21; --soft: #5d666f; --line: #e1e4e0; --code: #f0f2ef;
  --ok: #1f8a66; --failed: #c73e2c; --duplicate: #c48a1a; --cancelled: #8a6fb8; --other: #4b78c8;
  --bar: #3a74c4; --wash: #3a74c422;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #101316; --card: #181c20; --ink: #e9ebe8; --soft: #98a2ab; --line: #2a3036; --code: #20262b;
    --ok: #3fb68c; --failed: #ec6a57; --duplicate: #dcab45; --cancelled: #ac93dc; --other: #7ba2e6;
    --bar: #6b9fe8; --wash: #6b9fe82b;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 1060px; margin: 0 auto; padding: 44px 24px 64px; }
header { margin-bottom: 26px; }
header code { background: none; padding: 0; color: var(--soft); }
.eyebrow { color: var(--soft); font-size: 13px; letter-spacing: .02em; }
h1 { font-size: 30px; line-height: 1.2; margin: 4px 0 8px; letter-spacing: -.015em; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 0 0 14px; letter-spacing: -.005em; }
h2 small { font-weight: 400; color: var(--soft); font-size: 13px; margin-left: 8px; }
code, .mono { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: .88em; }
code { background: var(--code); border-radius: 4px; padding: 1px 5px; overflow-wrap: anywhere; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 22px 24px;
  margin-bottom: 18px; }
.verdict { font-size: 17px; margin: 0 0 16px; }
.verdict b { font-variant-numeric: tabular-nums; }
.share { display: flex; height: 14px; border-radius: 7px; overflow: hidden; gap: 2px; background: var(--line); }
.share i { display: block; min-width: 4px; }
.legend { display: flex; flex-wrap: wrap; gap: 6px 22px; margin: 12px 0 0; padding: 0; list-style: none; }
.legend b, td.number, .tile b, .kind .count { font-variant-numeric: tabular-nums; }
.dot { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 7px; }
.ok { background: var(--ok); } .failed { background: var(--failed); } .duplicate { background: var(--duplicate); }
.cancelled { background: var(--cancelled); } .other { background: var(--other); }
.tiles { display: flex; flex-wrap: wrap; gap: 1px; margin: 22px -24px -22px;
  background: var(--line); border-top: 1px solid var(--line); border-radius: 0 0 12px 12px; overflow: hidden; }
.tile { flex: 1 0 170px; background: var(--card); padding: 14px 24px 16px; }
.tile span { display: block; color: var(--soft); font-size: 13px; }
.tile span::first-letter { text-transform: uppercase; }
.tile b { font-size: 21px; font-weight: 600; letter-spacing: -.01em; }
.tile em { display: block; font-style: normal; color: var(--soft); font-size: 13px; }
.notice { border-left: 5px solid var(--duplicate); }
.notice h2 { margin-bottom: 4px; }
.notice p { margin: 0 0 10px; color: var(--soft); }
h2 + .tiles { margin-top: 0; }
.kind { border-top: 1px solid var(--line); padding: 14px 0; }
.kind:first-of-type { border-top: 0; padding-top: 0; }
.kind:last-child { padding-bottom: 0; }
.kind .line { display: flex; align-items: baseline; gap: 12px; flex-wrap: wrap; }
.kind .name { font-weight: 600; }
.kind .count { margin-left: auto; font-weight: 600; }
.kind .meter { height: 4px; border-radius: 2px; background: var(--line); margin: 7px 0 8px; }
.kind .meter i { display: block; height: 100%; border-radius: 2px; background: var(--failed); min-width: 4px; }
.kind p { margin: 0; color: var(--soft); }
details { margin-top: 8px; }
summary { cursor: pointer; color: var(--soft); font-size: 13px; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
th { text-align: left; color: var(--soft); font-weight: 500; }
td, th { padding: 6px 14px 6px 0; border-top: 1px solid var(--line); vertical-align: top; overflow-wrap: anywhere; }
tr:first-child > td, tr:first-child > th { border-top: 0; }
td.number { white-space: nowrap; }
.examples td:first-child { width: 46%; }
.places td:first-child { white-space: nowrap; }
.examples { margin-top: 6px; }
.chart { overflow-x: auto; }
.chart svg { display: block; width: 100%; min-width: 700px; height: auto; }
svg text { fill: var(--soft); font: 11px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif;
  font-variant-numeric: tabular-nums; }
svg .name { text-anchor: end; } svg .tick { text-anchor: middle; } svg .caption { fill: var(--ink); }
svg .grid { stroke: var(--line); stroke-width: 1; } svg .lane { fill: var(--line); opacity: .45; }
svg .bar { fill: var(--bar); stroke: var(--card); stroke-width: .6; } svg .bar:hover { fill: var(--ink); }
svg .area { fill: var(--wash); }
svg .curve { fill: none; stroke: var(--bar); stroke-width: 1.6; stroke-linejoin: round; }
.note { color: var(--soft); font-size: 13px; margin: 12px 0 0; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(320px, 1fr)); gap: 18px; margin-bottom: 18px; }
.two section { margin: 0; }
pre { margin: 14px 0 0; padding: 12px 14px; background: var(--code); border-radius: 8px; overflow-x: auto;
  font-size: 13px; }
pre code { background: none; padding: 0; overflow-wrap: normal; }
footer { color: var(--soft); font-size: 13px; }
@media print { body { background: none; } section { break-inside: avoid; } }
"""
