"use strict";
// Curves of the last minute, drawn on a canvas in the colours of the theme.

const Traces = (() => {
  const SPAN_S = 60;

  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  // A canvas as sharp as the screen; its size in CSS pixels and a context in them.
  function sheet(canvas) {
    const scale = window.devicePixelRatio || 1;
    const width = canvas.clientWidth, height = canvas.clientHeight;
    const w = Math.round(width * scale), h = Math.round(height * scale);
    if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
    const context = canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    return { context, width, height };
  }

  // The smallest of 1, 2, 5, 10, … that is at least as large.
  function ceiling(value) {
    const power = 10 ** Math.floor(Math.log10(Math.max(value, 1e-3)));
    return [1, 2, 5, 10].map((step) => step * power).find((top) => top >= value * 0.999);
  }

  function percentile(sorted, share) {
    return sorted.length ? sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] : NaN;
  }

  function spread(values) {
    const sorted = Float64Array.from(values).sort();
    const [p50, p99] = [percentile(sorted, 0.5), percentile(sorted, 0.99)];
    return { p50, p99, max: sorted.length ? sorted[sorted.length - 1] : NaN };
  }

  // rows: [[time_s, value, colour], …]; bars from the floor, or a line.
  function draw(canvas, rows, asBars) {
    const { context, width, height } = sheet(canvas);
    const left = 38, bottom = 16, plotWidth = width - left, plotHeight = height - bottom - 4;
    const quiet = colour("--quiet"), line = colour("--line");
    const found = spread(rows.map((row) => row[1]));
    const top = ceiling(Math.max(found.p99 * 1.15 || 1, 1));
    const end = rows.length ? rows[rows.length - 1][0] : 0;
    const x = (time) => left + plotWidth * (1 - (end - time) / SPAN_S);
    const y = (value) => 4 + plotHeight * (1 - Math.min(value, top) / top);
    context.font = "11px system-ui, sans-serif";
    context.fillStyle = quiet;
    context.strokeStyle = line;
    context.lineWidth = 1;
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const value of [0, top / 2, top]) {
      const level = Math.round(y(value)) + 0.5;
      context.beginPath();
      context.moveTo(left, level);
      context.lineTo(width, level);
      context.stroke();
      context.fillText(value ? `${+value.toPrecision(2)}` : "0", left - 6, Math.max(level, 6));
    }
    context.textBaseline = "alphabetic";
    context.fillText("now", width - 1, height - 3);
    context.textAlign = "left";
    context.fillText(`−${SPAN_S} s`, left, height - 3);
    if (asBars) {
      for (const [time, value, shade] of rows) {
        context.fillStyle = shade;
        const at = x(time), level = Math.min(y(value), 3 + plotHeight); // a pixel at least
        if (at >= left) context.fillRect(at - 1, level, 1.6, 4 + plotHeight - level);
      }
    } else {
      context.strokeStyle = colour("--accent");
      context.lineWidth = 1.25;
      context.lineJoin = "round";
      context.beginPath();
      let before = null;
      for (const [time, value] of rows) {
        const at = x(time);
        if (at < left) continue;
        if (before === null || time - before > 1) context.moveTo(at, y(value));
        else context.lineTo(at, y(value));
        before = time;
      }
      context.stroke();
    }
    return found;
  }

  return { SPAN_S, colour, sheet, draw };
})();
