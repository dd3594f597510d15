"""Operations that blocks and losses share: attention, seeded draws, gathering, patches."""
