// Offers a load profile of strategy submissions to a gateway, on an absolute
// schedule that never waits for answers.
//
//   PLUMBLINE_TARGET=http://127.0.0.1:8000 PLUMBLINE_PROFILE=bench/profiles/smoke.json \
//   PLUMBLINE_OUT=.artifacts/load bin/k6 run bench/scripts/submit.js
//
//   PLUMBLINE_TARGET   base URL of the gateway
//   PLUMBLINE_PROFILE  load profile (default bench/profiles/smoke.json)
//   PLUMBLINE_OUT      directory for load.json, outcomes.jsonl, latency.hlog, k6-summary.json (default: none is kept)
//   PLUMBLINE_SEED     of the workload (default 1)
//   PLUMBLINE_RUN_ID   sets the keys of this run apart from others (default: drawn from the clock)
//   PLUMBLINE_START_AT common start of several instances, Unix milliseconds
//   PLUMBLINE_RATE, PLUMBLINE_WINDOW, PLUMBLINE_WARMUP  override the profile
//   PLUMBLINE_INSTANCES  how many instances share the schedule by execution segments (default 1)
import { plan as makePlan, offer } from 'k6/x/plumbline';

const plan = makePlan({
  target: __ENV.PLUMBLINE_TARGET,
  profile: __ENV.PLUMBLINE_PROFILE || 'bench/profiles/smoke.json',
  out: __ENV.PLUMBLINE_OUT,
  seed: __ENV.PLUMBLINE_SEED,
  tag: __ENV.PLUMBLINE_RUN_ID,
  startAt: __ENV.PLUMBLINE_START_AT,
  rate: __ENV.PLUMBLINE_RATE,
  window: __ENV.PLUMBLINE_WINDOW,
  warmUp: __ENV.PLUMBLINE_WARMUP,
});

export const options = {
  scenarios: {
    submit: {
      // Each execution segment needs a VU; the first VU of an instance offers.
      executor: 'per-vu-iterations',
      vus: Number(__ENV.PLUMBLINE_INSTANCES || 1),
      iterations: 1,
      maxDuration: plan.maxDuration,
      gracefulStop: '5s',
    },
  },
  thresholds: {
    plumbline_dropped: ['count==0'],
    plumbline_lost: ['count==0'],
    plumbline_unexpected: ['count==0'],
  },
  summaryTrendStats: ['min', 'avg', 'med', 'p(90)', 'p(95)', 'p(99)', 'p(99.9)', 'max', 'count'],
};

export default function () {
  offer(plan);
}

export function handleSummary(data) {
  const files = { stdout: text(data.metrics) };
  if (plan.out) {
    files[`${plan.out}/k6-summary.json`] = JSON.stringify(data, null, 2);
  }
  return files;
}

function text(metrics) {
  const count = (name) => (metrics[`plumbline_${name}`] ? metrics[`plumbline_${name}`].values.count : 0);
  const counts = ['offered', 'accepted', 'rejected', 'unexpected', 'lost', 'dropped'].map((n) => `${n} ${count(n)}`);
  const lines = [`${plan.name}: ${counts.join(', ')}`];
  for (const name of ['latency', 'service', 'generator_lag']) {
    const m = metrics[`plumbline_${name}`];
    if (m) {
      const v = m.values;
      const at = (q) => v[q].toFixed(3);
      lines.push(`  ${name.padEnd(13)} med ${at('med')}  p95 ${at('p(95)')}  p99 ${at('p(99)')}  p99.9 ${at('p(99.9)')}  max ${at('max')} ms`);
    }
  }
  return lines.join('\n') + '\n';
}
