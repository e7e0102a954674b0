/// \file  From the numbers of a split to the table of each pipeline stage.   floor 4: schedule
#pragma once

#include <ctrain/schedule/events.hpp>

#include <cstdint>

namespace ctrain {

/// Writes the events of one stage, or, without a table, only counts them. Methods are in the order
/// in which a step happens: the micro-batches of a model in one stage, those of a pipeline, update.
template <int Capacity> struct StageWriter {
  const Split& split;
  const StageLayout& layout;
  StageTable<Capacity>* table = nullptr;
  int size = 0;
  int section_start = 0;

  // single events --------------------------------------------------------------------------------

  constexpr int add(const Event& e) {
    if (table != nullptr) table->events.add(e);
    return size++;
  }
  constexpr void end_section(int repeats) {
    if (table != nullptr) table->sections.add({section_start, size - section_start, repeats});
    section_start = size;
  }
  constexpr void wait(int event) { add({.kind = EventKind::wait, .awaited = event}); }
  constexpr void acquire(Place p) { add({.kind = EventKind::acquire, .to = p}); }
  constexpr void release(Place p) { add({.kind = EventKind::release, .to = p}); }
  static constexpr Place place(Store store, int index) { return {store, std::int16_t(index)}; }

  /// Forward or backward of units, with the parameters in `weights`.
  constexpr void units(Work work, int first, int count, int micro, int slot, Place weights,
                       Place gradients = {}) {
    add({.kind = EventKind::compute,
         .work = work,
         .from = weights,
         .to = gradients,
         .first = std::int16_t(first),
         .count = std::int16_t(count),
         .slot = std::int16_t(slot),
         .micro = micro});
  }
  constexpr void buckets(Work work, Place from, Place to, int first, int count) {
    add({.kind = EventKind::compute,
         .work = work,
         .from = from,
         .to = to,
         .first = std::int16_t(first),
         .count = std::int16_t(count)});
  }
  constexpr int collective(Collective kind, Group group, int bucket, Place from, Place to,
                           bytes payload) {
    return add({.kind = EventKind::collective,
                .collective = kind,
                .group = group,
                .from = from,
                .to = to,
                .first = std::int16_t(bucket),
                .count = 1,
                .size = payload});
  }
  constexpr int send(Place from, int peer, int micro) {
    return add({.kind = EventKind::send,
                .from = from,
                .peer = std::int16_t(peer),
                .micro = micro,
                .size = split.stream});
  }
  constexpr int receive(Place to, int peer, int micro) {
    return add({.kind = EventKind::receive,
                .to = to,
                .peer = std::int16_t(peer),
                .micro = micro,
                .size = split.stream});
  }

  constexpr bytes gradient_bytes(int bucket) const {
    return layout.buckets.rows[bucket].elements * split.size.gradient;
  }
  constexpr bytes parameter_bytes(int bucket) const {
    return layout.buckets.rows[bucket].elements * split.size.parameter;
  }
  constexpr bool sums_gradients() const {
    return split.grid.data > 1 && split.sums == Sums::gradients;
  }
  constexpr int last_bucket() const { return layout.buckets.size - 1; }

  // gradients ------------------------------------------------------------------------------------

  int reductions[most_buckets]{};  // the event that started each bucket's

  /// Where each tensor rank has normed rows of its own, it has seen a part of the norms' gradients.
  constexpr void sum_norms(int b, Place gradients) {
    if (split.norms_to_sum(layout.buckets.rows[b]) > 0)
      wait(collective(Collective::all_reduce, Group::tensor, b, gradients, gradients,
                      split.norms_to_sum(layout.buckets.rows[b])));
  }

  /// Backward of the last micro-batch, stages 0 and 1: each bucket is reduced over the data ranks
  /// while the ones below it are still computed.
  constexpr void backward_and_reduce(Work work, int micro, int slot) {
    if (!sums_gradients()) {
      backward_all(work, micro, slot);
      for (int b = 0; b < layout.buckets.size; ++b) sum_norms(b, place(Store::gradients, b));
      return;
    }
    for (int b = 0; b < layout.buckets.size; ++b) {
      const Bucket& bucket = layout.buckets.rows[b];
      const Place gradients = place(Store::gradients, b);
      units(work, bucket.first, bucket.units, micro, slot, place(Store::parameters, b), gradients);
      sum_norms(b, gradients);
      reductions[b] =
          collective(split.zero.stage == 0 ? Collective::all_reduce : Collective::reduce_scatter,
                     Group::data, b, gradients, gradients, gradient_bytes(b));
    }
  }
  constexpr void backward_all(Work work, int micro, int slot) {
    units(work, layout.first, layout.units, micro, slot, place(Store::parameters, 0),
          place(Store::gradients, 0));
  }
  constexpr void wait_for_reductions() {
    if (sums_gradients())
      for (int b = 0; b < layout.buckets.size; ++b) wait(reductions[b]);
  }

  /// Stages 2 and 3: a bucket's gradients stand in one of two buffers until their sum over the data
  /// ranks has been added to the shard that this rank keeps.
  constexpr void start_reduction(int b) {
    const Place buffer = place(Store::reducing, b % Split::reduce_buffers);
    sum_norms(b, buffer);
    reductions[b] =
        collective(Collective::reduce_scatter, Group::data, b, buffer, buffer, gradient_bytes(b));
  }
  constexpr void finish_reduction(int b) {
    const Place buffer = place(Store::reducing, b % Split::reduce_buffers);
    wait(reductions[b]);
    buckets(Work::accumulate, buffer, place(Store::gradient_shard, b), b, 1);
    release(buffer);
  }
  constexpr void backward_bucket(int b, Place weights) {
    const Bucket& bucket = layout.buckets.rows[b];
    const Place buffer = place(Store::reducing, b % Split::reduce_buffers);
    if (b >= Split::reduce_buffers) finish_reduction(b - Split::reduce_buffers);
    acquire(buffer);
    buckets(Work::clear, {}, buffer, b, 1);
    units(Work::backward, bucket.first, bucket.units, 0, 0, weights, buffer);
  }
  constexpr void finish_last_reductions() {
    const int n = layout.buckets.size;
    for (int b = n > Split::reduce_buffers ? n - Split::reduce_buffers : 0; b < n; ++b)
      finish_reduction(b);
  }

  // a micro-batch of a model that stands in one stage --------------------------------------------

  constexpr void forward_all(int micro, int slot) {
    units(Work::forward, layout.first, layout.units, micro, slot, place(Store::parameters, 0));
  }

  /// Stages 0 and 1: gradients of all but the last micro-batch stay where they are.
  constexpr void micro_batches_with_whole_gradients() {
    const Place activations = place(Store::activations, 0);
    if (split.micro_batches > 1) {
      acquire(activations);
      forward_all(0, 0);
      backward_all(Work::backward, 0, 0);
      release(activations);
      end_section(split.micro_batches - 1);
    }

    acquire(activations);
    forward_all(split.micro_batches - 1, 0);
    backward_and_reduce(Work::backward, split.micro_batches - 1, 0);
    release(activations);
    wait_for_reductions();
    end_section(1);
  }

  /// Stage 2: every micro-batch's gradients are reduced.
  constexpr void micro_batches_with_sharded_gradients() {
    const Place activations = place(Store::activations, 0);
    acquire(activations);
    forward_all(0, 0);
    for (int b = 0; b < layout.buckets.size; ++b) {
      backward_bucket(b, place(Store::parameters, b));
      start_reduction(b);
    }
    release(activations);
    finish_last_reductions();
    end_section(split.micro_batches);
  }

  int gathers[9]{};  // the event that filled each buffer

  /// Stage 3: buckets are used forward in the order of the model, then backward; use j is gathered
  /// `prefetch` uses ahead, into the buffer that use j - prefetch - 1 gave back.
  constexpr void start_gather(int use) {
    const int n = layout.buckets.size, b = use < n ? n - 1 - use : use - n,
              buffer = use % split.gather_buffers();
    acquire(place(Store::gathered, buffer));
    gathers[buffer] =
        collective(Collective::all_gather, Group::data, b, place(Store::parameter_shard, b),
                   place(Store::gathered, buffer), parameter_bytes(b));
  }
  /// The parameters of a use, once the gather of a later one, if any, has been started.
  constexpr Place await_gather(int use, int next) {
    if (next >= 0) start_gather(next);
    const Place weights = place(Store::gathered, use % split.gather_buffers());
    wait(gathers[weights.index]);
    return weights;
  }
  constexpr void forward_gathered(int use, int next) {
    const Place weights = await_gather(use, next);
    const Bucket& bucket = layout.buckets.rows[last_bucket() - use];
    units(Work::forward, bucket.first, bucket.units, 0, 0, weights);
    release(weights);
  }
  constexpr void backward_gathered(int use, int next) {
    const int b = use - layout.buckets.size;
    const Place weights = await_gather(use, next);
    backward_bucket(b, weights);
    release(weights);
    start_reduction(b);
  }
  constexpr void micro_batches_with_sharded_parameters() {
    const Place activations = place(Store::activations, 0);
    const int n = layout.buckets.size;
    acquire(activations);
    for (int use = 0; use < split.zero.prefetch && use < 2 * n; ++use) start_gather(use);
    for (int use = 0; use < 2 * n; ++use) {
      const int next = use + split.zero.prefetch < 2 * n ? use + split.zero.prefetch : -1;
      if (use < n)
        forward_gathered(use, next);
      else
        backward_gathered(use, next);
    }
    release(activations);
    finish_last_reductions();
    end_section(split.micro_batches);
  }

  // the micro-batches of a pipeline stage --------------------------------------------------------

  int stream_sent[most_places]{}, d_stream_sent[Split::d_stream_buffers]{},
      d_stream_received[Split::d_stream_buffers]{};

  constexpr bool is_first() const { return layout.stage == 0; }
  constexpr bool is_last() const { return layout.stage == split.grid.pipeline - 1; }

  constexpr void pipeline_forward(int micro) {
    const int slot = micro % split.slots(layout.stage);
    acquire(place(Store::activations, slot));
    if (!is_first()) wait(receive(place(Store::stream_in, slot), layout.stage - 1, micro));
    forward_all(micro, slot);
    if (!is_last())
      stream_sent[slot] = send(place(Store::stream_out, slot), layout.stage + 1, micro);
  }
  constexpr void receive_gradient(int micro) {
    const int buffer = micro % Split::d_stream_buffers;
    if (!is_last())
      d_stream_received[buffer] =
          receive(place(Store::d_stream_in, buffer), layout.stage + 1, micro);
  }
  /// What backward reads has come, and what it writes over has gone.
  constexpr void pipeline_backward(int micro, Work work) {
    const int slot = micro % split.slots(layout.stage), buffer = micro % Split::d_stream_buffers;
    if (!is_last()) {
      wait(d_stream_received[buffer]);
      wait(stream_sent[slot]);
    }
    if (!is_first() && micro >= Split::d_stream_buffers) wait(d_stream_sent[buffer]);
    if (work == Work::backward) {
      backward_of(work, micro, slot);
    } else {
      units(work, layout.first, layout.units, micro, slot, place(Store::parameters, 0));
    }
    if (!is_first())
      d_stream_sent[buffer] = send(place(Store::d_stream_out, buffer), layout.stage - 1, micro);
    if (work == Work::backward) release(place(Store::activations, slot));
  }
  constexpr void pipeline_weights(int micro) {
    const int slot = micro % split.slots(layout.stage);
    backward_of(Work::backward_weight, micro, slot);
    release(place(Store::activations, slot));
  }
  constexpr void backward_of(Work work, int micro, int slot) {
    if (micro + 1 == split.micro_batches)
      backward_and_reduce(work, micro, slot);
    else
      backward_all(work, micro, slot);
  }
  constexpr void wait_for_sent_gradients() {
    const int m = split.micro_batches;
    for (int i = m > Split::d_stream_buffers ? m - Split::d_stream_buffers : 0; i < m; ++i)
      if (!is_first()) wait(d_stream_sent[i % Split::d_stream_buffers]);
  }

  /// Warm-up forwards, then one forward and one backward in turn, then the backwards that are left.
  /// ZB-H1 takes gradients of weights `stage` micro-batches after those of inputs, so that the
  /// later a stage starts to wait at the end, the more it has left to do then.
  constexpr void pipeline_micro_batches() {
    const int m = split.micro_batches, ahead = split.grid.pipeline - layout.stage - 1,
              warm_up = ahead < m ? ahead : m;
    const bool split_backward = split.order == PipelineOrder::zero_bubble;
    const int late = layout.stage;
    for (int i = 0; i < warm_up; ++i) pipeline_forward(i);
    for (int i = 0; i < m; ++i) {
      receive_gradient(i);
      if (warm_up + i < m) pipeline_forward(warm_up + i);
      pipeline_backward(i, split_backward ? Work::backward_input : Work::backward);
      if (split_backward && i >= late) pipeline_weights(i - late);
    }
    if (split_backward)
      for (int i = m > late ? m - late : 0; i < m; ++i) pipeline_weights(i);
    wait_for_sent_gradients();
    wait_for_reductions();
    end_section(1);
  }

  // the step -------------------------------------------------------------------------------------

  /// Norm over all ranks, clipped update of what this rank owns, and every data rank gets the rest.
  constexpr void update() {
    const int n = layout.buckets.size, stage = split.zero.stage;
    const Place gradients = place(stage >= 2 ? Store::gradient_shard : Store::gradients, 0),
                norms = place(Store::norms, 0);
    buckets(Work::norm, gradients, norms, 0, n);
    if (split.gathers_norm())
      wait(collective(Collective::all_gather, Group::world, 0, norms, norms,
                      Split::record * split.grid.ranks()));
    if (split.sums == Sums::signs) sum_signs(place(Store::gradients, 0));
    if (stage == 0 || stage == 3) {
      buckets(Work::update, gradients,
              place(stage == 0 ? Store::parameters : Store::parameter_shard, 0), 0, n);
      return end_section(1);
    }
    int started[most_buckets]{};
    for (int b = n - 1; b >= 0; --b) {
      const Place parameters = place(Store::parameters, b);
      buckets(Work::update, place(gradients.store, b), parameters, b, 1);
      started[b] = collective(Collective::all_gather, Group::data, b, parameters, parameters,
                              parameter_bytes(b));
    }
    for (int b = n - 1; b >= 0; --b) wait(started[b]);
    end_section(1);
  }

  /// Signs of what each rank has go to the one that takes their chunk's mean, and its signs to all.
  constexpr void sum_signs(Place gradients) {
    const int n = layout.buckets.size, ranks = split.grid.data;
    const Place signs = place(Store::signs, 0), means = place(Store::means, 0);
    buckets(Work::compress, gradients, signs, 0, n);
    wait(collective(Collective::all_to_all, Group::data, 0, signs, signs,
                    2 * ranks * split.sign_message));
    buckets(Work::serve, signs, means, 0, n);
    wait(collective(Collective::all_gather, Group::data, 0, means, means,
                    ranks * split.sign_message));
  }

  /// Without a gradient: what ranks have gathered in the steps since they last sent signs.
  constexpr void sync() {
    sum_signs({});
    buckets(Work::update, place(Store::means, 0), place(Store::parameters, 0), 0,
            layout.buckets.size);
    end_section(1);
  }

  // an evaluation -------------------------------------------------------------------------------

  /// One micro-batch forward.
  constexpr void evaluate() {
    const Place activations = place(Store::activations, 0);
    const int n = layout.buckets.size, ahead = split.zero.prefetch;
    acquire(activations);
    if (!is_first()) wait(receive(place(Store::stream_in, 0), layout.stage - 1, 0));
    if (split.zero.stage < 3) {
      forward_all(0, 0);
    } else {
      for (int use = 0; use < ahead && use < n; ++use) start_gather(use);
      for (int use = 0; use < n; ++use) forward_gathered(use, use + ahead < n ? use + ahead : -1);
    }
    if (!is_last()) wait(send(place(Store::stream_out, 0), layout.stage + 1, 0));
    release(activations);
    end_section(1);
  }

  constexpr void step() {
    if (!split.trains) return evaluate();
    if (split.only_syncs) return sync();
    const int n = layout.buckets.size;
    buckets(Work::clear, {},
            place(split.zero.stage >= 2 ? Store::gradient_shard : Store::gradients, 0), 0, n);
    end_section(1);
    if (split.grid.pipeline > 1)
      pipeline_micro_batches();
    else if (split.zero.stage < 2)
      micro_batches_with_whole_gradients();
    else if (split.zero.stage == 2)
      micro_batches_with_sharded_gradients();
    else
      micro_batches_with_sharded_parameters();
    update();
  }
};

/// Rows of the longest table.
constexpr int schedule_events(const Split& split, const ParameterTable& t) {
  int most = 0;
  for (int stage = 0; stage < split.grid.pipeline; ++stage) {
    const StageLayout layout = stage_layout(t, split.grid, split.zero.bucket, split.size, stage);
    StageWriter<1> counter{split, layout};
    counter.step();
    if (counter.size > most) most = counter.size;
  }
  return most;
}

template <int Stages, int Capacity>
constexpr Schedule<Stages, Capacity> build_schedule(const Split& split, const ParameterTable& t) {
  Schedule<Stages, Capacity> s;
  s.split = split;
  for (int stage = 0; stage < Stages; ++stage) {
    s.layouts[stage] = stage_layout(t, split.grid, split.zero.bucket, split.size, stage);
    StageWriter<Capacity> writer{split, s.layouts[stage], &s.tables[stage]};
    writer.step();
  }
  return s;
}

}  // namespace ctrain
