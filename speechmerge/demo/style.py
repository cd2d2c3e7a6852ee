"""The looks of the page; light and dark."""
CSS = """
section.sm-part { margin-bottom: 1.2rem }
.sm-part h4 { font-weight: 600; margin: .6rem 0 .3rem }
.sm-head h1 { font-weight: 700; font-size: 1.5rem; margin: 0 }
.sm-head p { margin: .2rem 0 0; opacity: .8 }
.sm-box { border-radius: 8px; padding: .7rem 1rem; border: 1px solid var(--border-color-primary) }
.sm-problem { border-color: #d55e00; background: #d55e0018; font-weight: 600 }
.sm-bars { max-width: 34rem }
.sm-small { width: 17rem; font-size: .85em }
.sm-bar { display: flex; align-items: center; gap: .5rem; margin: .15rem 0 }
.sm-name { flex: 0 0 5rem; overflow: hidden; text-overflow: ellipsis; white-space: nowrap }
.sm-small .sm-name { flex-basis: 5.5rem }
.sm-small .sm-value { flex-basis: 3.2rem }
.sm-track { flex: 1; height: .75rem; border-radius: 4px; background: var(--border-color-primary); overflow: hidden }
.sm-fill { display: block; height: 100% }
.sm-value { flex: 0 0 4rem; text-align: right; font-variant-numeric: tabular-nums }
.sm-timeline { display: block; width: 100%; height: 3.2rem; border-radius: 6px }
.sm-axis { display: flex; justify-content: space-between; gap: 1rem; font-size: .8em; opacity: .8 }
.sm-scroll { overflow-x: auto }
.sm-table { border-collapse: collapse; width: 100%; font-size: .95em }
.sm-table th, .sm-table td { padding: .35rem .6rem; border-bottom: 1px solid var(--border-color-primary); text-align: left;
    vertical-align: middle }
.sm-table thead th { font-weight: 600; opacity: .75; font-size: .85em; white-space: nowrap }
.sm-table .sm-number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }
.sm-system { white-space: nowrap; font-weight: 600; max-width: 14rem; overflow: hidden; text-overflow: ellipsis }
.sm-text { min-width: 12rem; width: 60% }
.sm-table .sm-labels { min-width: 17.5rem }
.sm-none { opacity: .7; font-style: italic }
.sm-kind { border-radius: 999px; padding: .05rem .55rem; font-size: .8em; color: #fff }
.sm-kind.sm-base { background: #6b7280 }
.sm-kind.sm-adapter { background: #1d63b0 }
.sm-kind.sm-merged { background: #b35900 }
.sm-kind.sm-routed { background: #007a5a }
.sm-told { opacity: .65; font-size: .75em; border: 1px solid var(--border-color-primary); border-radius: 4px; padding: 0 .3rem }
.sm-truth { margin: .2rem 0 .4rem }
.sm-timing { opacity: .75; font-size: .85em; margin-top: .6rem }
"""
