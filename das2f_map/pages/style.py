"""The look of all pages: one style for the screen, the phone and paper."""

from __future__ import annotations

CSS = """
.das2f { --ink: #1d2731; --faint: #56626e; --line: #d5dbe1; --panel: #f4f6f8; --accent: #1f5f8b;
  color: var(--ink); background: #fff; font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto,
  "Noto Sans", "DejaVu Sans", sans-serif; text-align: left; -webkit-text-size-adjust: 100%; }
.das2f * { box-sizing: border-box; }
.das2f main, .das2f > header, .das2f > footer { max-width: 62rem; margin: 0 auto; padding: 0 1.25rem; }
.das2f > header { padding-top: 2.2rem; }
.das2f .kind { margin: 0; font-size: .8rem; letter-spacing: .08em; text-transform: uppercase;
  color: var(--accent); font-weight: 600; }
.das2f h1 { margin: .1rem 0 .3rem; font-size: 2rem; line-height: 1.15; overflow-wrap: anywhere; }
.das2f .lead { margin: 0 0 1.2rem; color: var(--faint); }
.das2f h2 { margin: 2.4rem 0 .8rem; padding-bottom: .3rem; border-bottom: 2px solid var(--ink);
  font-size: 1.3rem; line-height: 1.25; }
.das2f h3 { margin: 1.6rem 0 .5rem; font-size: 1.05rem; }
.das2f p { margin: .5rem 0; max-width: 46rem; }
.das2f a { color: var(--accent); overflow-wrap: anywhere; }
.das2f code { font: .9em ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
.das2f nav { margin: 0 0 1.2rem; }
.das2f nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; margin: 0; padding: 0;
  font-size: .9rem; }
.das2f .tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .7rem;
  margin: 0 0 1.2rem; }
.das2f .tiles div { padding: .7rem .9rem; background: var(--panel); border: 1px solid var(--line);
  border-radius: 6px; }
.das2f .tiles dt { font-size: .8rem; color: var(--faint); }
.das2f .tiles dd { margin: 0; }
.das2f .tiles b { display: block; font-size: 1.45rem; line-height: 1.3; font-weight: 650; }
.das2f .tiles small { color: var(--faint); font-size: .8rem; line-height: 1.3; display: block; }
.das2f .box { margin: 0 0 1rem; padding: .7rem 1rem .7rem 2rem; border: 1px solid var(--line);
  border-left: 5px solid var(--accent); border-radius: 4px; background: var(--panel); font-size: .92rem; }
.das2f .box.warning { border-left-color: #c77700; background: #fff7e8; }
.das2f .box.bad { border-left-color: #b3261e; background: #fdeeec; }
.das2f .box li { margin: .15rem 0; overflow-wrap: anywhere; }
.das2f figure { margin: 0 0 1.2rem; }
.das2f figcaption { margin-top: .4rem; font-size: .85rem; color: var(--faint); }
.das2f .with-key { display: grid; grid-template-columns: minmax(0, 1fr) 15rem; gap: 1.4rem;
  align-items: start; }
.das2f .frame { max-width: 100%; }
.das2f .ground { display: block; width: 100%; border: 1px solid var(--ink); background: #fff
  repeating-linear-gradient(45deg, #fff 0 5px, #d5dbe1 5px 6px); }
.das2f .below { display: flex; justify-content: space-between; gap: 1rem; margin-top: .35rem;
  font-size: .8rem;
  color: var(--faint); }
.das2f .scale { min-width: 3.2rem; }
.das2f .scale svg { display: block; width: 100%; height: 7px; }
.das2f .key { list-style: none; margin: 0; padding: 0; font-size: .92rem; }
.das2f .key li { display: grid; grid-template-columns: 1.5rem 1fr auto; padding: .16rem 0;
  border-bottom: 1px solid var(--line); align-items: baseline; }
.das2f .key li span:last-child { color: var(--faint); font-variant-numeric: tabular-nums;
  padding-left: .6rem; }
.das2f .key bdi { overflow-wrap: anywhere; }
.das2f .swatch { width: .8em; height: .8em; vertical-align: -.06em; flex: none; margin-right: .45em; }
.das2f .wide { overflow-x: auto; margin: 0 0 1.2rem; }
.das2f table { border-collapse: collapse; width: 100%; font-size: .9rem; background: #fff; color: inherit; }
.das2f caption { text-align: left; font-size: .85rem; color: var(--faint); padding: 0 0 .35rem;
  caption-side: top; }
.das2f caption span { display: block; position: sticky; left: 0;
  max-width: calc(min(100vw, 64.5rem) - 2.5rem); }
.das2f th, .das2f td { padding: .32rem .55rem; text-align: left; border-bottom: 1px solid var(--line);
  vertical-align: middle; font-weight: 400; background: none; }
.das2f thead th { border-bottom: 1.5px solid var(--ink); font-size: .82rem; color: var(--faint);
  vertical-align: bottom; }
.das2f thead th.n { white-space: normal; }
.das2f tbody th { overflow-wrap: anywhere; min-width: 7rem; }
.das2f .n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.das2f td small { display: block; color: var(--faint); font-size: .78rem; white-space: nowrap; }
.das2f td.bar { width: 38%; min-width: 8rem; }
.das2f .bar svg { display: block; width: 100%; height: 22px; overflow: visible; }
.das2f .matrix { width: auto; }
.das2f .matrix td, .das2f .matrix thead th { text-align: center; min-width: 3.4rem; }
.das2f .matrix thead th:first-child { text-align: left; }
.das2f .matrix td { border: 1px solid #fff; font-variant-numeric: tabular-nums; }
.das2f .matrix .sum { color: var(--faint); }
.das2f .matrix.many thead th:not(:first-child) { writing-mode: vertical-rl; transform: rotate(180deg);
  text-align: left; padding: .4rem .1rem; }
.das2f .facts { margin: 0 0 1rem; font-size: .92rem; }
.das2f .facts div { display: grid; grid-template-columns: 11rem minmax(0, 1fr); gap: .2rem 1rem;
  padding: .3rem 0; border-bottom: 1px solid var(--line); }
.das2f .facts dt { color: var(--faint); }
.das2f .facts dd { margin: 0; overflow-wrap: anywhere; }
.das2f .facts dd code { font-size: .82em; color: var(--faint); }
.das2f .pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 1.4rem;
  align-items: start; }
.das2f .chart { width: 100%; max-width: 26rem; height: auto; }
.das2f .chart text { font: 11px system-ui, "DejaVu Sans", sans-serif; fill: #56626e; }
.das2f .ramp { display: flex; align-items: center; gap: .5rem; font-size: .82rem; color: var(--faint); }
.das2f .ramp svg { flex: 1; height: 12px; border: 1px solid var(--line); }
.das2f blockquote { margin: .5rem 0 1rem; padding: .6rem 1rem; border-left: 4px solid var(--line);
  color: var(--ink);
  background: var(--panel); max-width: 46rem; font-size: .95rem; }
.das2f > footer { margin-top: 2.5rem; padding-bottom: 2rem; font-size: .8rem; color: var(--faint); }
.das2f > footer p { border-top: 1px solid var(--line); padding-top: .7rem; max-width: none; }
.das2f, .das2f * { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
@media (max-width: 46rem) {
  .das2f h1 { font-size: 1.55rem; }
  .das2f .with-key { grid-template-columns: minmax(0, 1fr); gap: .6rem; }
  .das2f .facts div { grid-template-columns: minmax(0, 1fr); gap: 0; }
  .das2f .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .das2f table { font-size: .82rem; }
  .das2f th, .das2f td { padding: .3rem .25rem; }
  .das2f tbody th { min-width: 5.2rem; }
  .das2f td.bar { min-width: 3.2rem; width: 24%; }
  .das2f .matrix td, .das2f .matrix thead th { min-width: 2.1rem; }
  .das2f .matrix thead th:not(:first-child) { writing-mode: vertical-rl; transform: rotate(180deg);
    text-align: left; padding: .4rem .1rem; }
  .das2f .tiles b { font-size: 1.2rem; }
}
@media print {
  .das2f { font-size: 10pt; }
  .das2f main, .das2f > header, .das2f > footer { max-width: none; padding-left: 0; padding-right: 0; }
  .das2f > header { padding-top: 0; }
  .das2f nav { display: none; }
  .das2f h1 { font-size: 20pt; }
  .das2f h2 { margin-top: 1.4rem; font-size: 13pt; }
  .das2f h2, .das2f h3, .das2f caption { break-after: avoid; }
  .das2f h2 + p { break-after: avoid; }
  .das2f .frame { max-width: 13cm; }
  .das2f figure, .das2f tr, .das2f .wide, .das2f .tiles, .das2f .box, .das2f .facts div,
  .das2f blockquote { break-inside: avoid; }
  .das2f .with-key { grid-template-columns: minmax(0, 1fr) 12rem; }
  .das2f .tiles { grid-template-columns: repeat(4, 1fr); }
  .das2f .tiles b { font-size: 14pt; }
  .das2f .wide { overflow: visible; }
  .das2f a { color: inherit; text-decoration: none; }
}
"""
"""Every rule is about the inside of ``.das2f``, so that a notebook around a page keeps its own look."""

PAGE_CSS = "html, body { margin: 0; padding: 0; } @page { size: A4; margin: 15mm 15mm 17mm; }"
"""Rules for a page of its own alone."""
