package swarm

import "github.com/prometheus/client_golang/prometheus"

// serverMetrics counts what is given away.
type serverMetrics struct {
	sent    *prometheus.CounterVec // bytes by kind
	pieces  *prometheus.CounterVec // whole pieces by kind
	refused *prometheus.CounterVec // by reason
	slots   prometheus.Gauge
	waiting prometheus.Gauge
	streams prometheus.Gauge
}

// The kinds of pieces that are sent.
const (
	kindPiece  = "piece"  // asked for by its index
	kindNext   = "next"   // chosen by the seed
	kindRepeat = "repeat" // had left the seed before
)

func newServerMetrics(reg prometheus.Registerer) *serverMetrics {
	m := &serverMetrics{
		sent: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "shoal_swarm_sent_bytes_total", Help: "Bytes of pieces sent to peers.",
		}, []string{"kind"}),
		pieces: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "shoal_swarm_sent_pieces_total", Help: "Whole pieces sent to peers.",
		}, []string{"kind"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "shoal_swarm_refused_total", Help: "Requests of peers that were refused.",
		}, []string{"reason"}),
		slots: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "shoal_swarm_upload_slots_used", Help: "Pieces being sent.",
		}),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "shoal_swarm_upload_waiting", Help: "Requests that wait for an upload slot.",
		}),
		streams: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "shoal_swarm_streams", Help: "Open map and have streams.",
		}),
	}
	register(reg, m.sent, m.pieces, m.refused, m.slots, m.waiting, m.streams)
	return m
}

// exchangeMetrics counts what is fetched.
type exchangeMetrics struct {
	received   *prometheus.CounterVec // bytes by kind of peer, verified or not
	pieces     *prometheus.CounterVec // verified pieces by kind of peer
	failures   *prometheus.CounterVec // by reason
	hedges     prometheus.Counter
	bans       prometheus.Counter
	mismatches prometheus.Counter
	slots      prometheus.Gauge
}

// The kinds of peers that pieces come from.
const (
	fromPeer = "peer"
	fromSeed = "seed"
)

func newExchangeMetrics(reg prometheus.Registerer) *exchangeMetrics {
	m := &exchangeMetrics{
		received: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "shoal_swarm_received_bytes_total", Help: "Bytes of pieces received, wasted ones included.",
		}, []string{"kind"}),
		pieces: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "shoal_swarm_received_pieces_total", Help: "Verified pieces received.",
		}, []string{"kind"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "shoal_swarm_piece_failures_total", Help: "Requests for pieces that brought none.",
		}, []string{"reason"}),
		hedges: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "shoal_swarm_hedges_total", Help: "Late pieces that a second peer was asked for.",
		}),
		bans: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "shoal_swarm_bans_total", Help: "Peers banned for wrong bytes.",
		}),
		mismatches: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "shoal_swarm_mismatches_total", Help: "Pieces that did not match their signed hash.",
		}),
		slots: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "shoal_swarm_download_slots_used", Help: "Pieces asked for and not yet here.",
		}),
	}
	register(reg, m.received, m.pieces, m.failures, m.hedges, m.bans, m.mismatches, m.slots)
	return m
}

func register(reg prometheus.Registerer, all ...prometheus.Collector) {
	if reg != nil {
		reg.MustRegister(all...)
	}
}
