package gateway

import (
	"context"
	"io"
	"net/http"
	"time"

	"qmtl.internal/plumbline/ref/gateway/model"
	"qmtl.internal/plumbline/ref/gateway/submit"
	"qmtl.internal/plumbline/scenarios/contract"
)

// history takes a report on the data that a node ran on (gateway.md 1.6). The
// WorldService that hears of it changes nothing about the answer.
func (g *Gateway) history() http.HandlerFunc {
	shape := submit.HistoryModel()
	return func(w http.ResponseWriter, r *http.Request) {
		if err := g.report(w, r, shape); err != nil {
			g.answerError(w, r, err)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}
}

func (g *Gateway) report(w http.ResponseWriter, r *http.Request, shape model.Type) error {
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, g.maxBody))
	if err != nil {
		return model.Unread(err, g.maxBody)
	}
	body, err := model.Read(r.Header.Get("Content-Type"), raw, shape)
	if err != nil {
		return err
	}
	id := r.PathValue("strategy_id")
	report := submit.NewHistoryReport(id, body, time.Now())
	known, err := g.pipeline.Registry.Report(r.Context(), id, report.Fields)
	if err != nil {
		return err
	}
	if !known {
		return contract.StrategyNotFound()
	}
	g.forward(r.Context(), report)
	return nil
}

func (g *Gateway) forward(ctx context.Context, report submit.HistoryReport) {
	if g.proxy.Client == nil || report.World == "" {
		return
	}
	if err := g.proxy.Client.History(ctx, report.World, report.Forward); err != nil {
		g.log.Debug("history report not passed on", "world", report.World, "error", err)
	}
}
